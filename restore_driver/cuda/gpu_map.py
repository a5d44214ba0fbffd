"""Map the GPUs of a snapshot to those of a placeholder, and convert a GPU's UUID.

Orders differ between hosts and boots, so GPUs are matched by UUID and never by position: a GPU that both sides have
maps to itself, the others follow in order. A map of nothing but identities becomes None, which the driver
restores faster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from restore_driver.errors import DriverError, Reason

DeviceMap = Mapping[str, str]
"""UUID of each GPU at the checkpoint -> UUID of the GPU that it is restored to."""

_FORM = re.compile(r"GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def device_map(snapshot: Sequence[str], placeholder: Sequence[str]) -> dict[str, str] | None:
    """Return old UUID -> new UUID for every GPU of the snapshot; None when all are the same.

    Raises:
        DriverError: FINGERPRINT_MISMATCH for unequal counts, a GPU named twice, or what is no GPU's UUID.
    """
    for side, gpus in (("snapshot", snapshot), ("placeholder", placeholder)):
        _refuse_doubtful(side, gpus)
    if len(snapshot) != len(placeholder):
        raise DriverError(
            Reason.FINGERPRINT_MISMATCH,
            f"the snapshot holds {len(snapshot)} GPUs, the placeholder {len(placeholder)}",
            "give the placeholder as many GPUs as the replica had",
        )
    stay = set(snapshot) & set(placeholder)
    free = iter([gpu for gpu in placeholder if gpu not in stay])
    mapped = {old: old if old in stay else next(free) for old in snapshot}
    return None if all(old == new for old, new in mapped.items()) else mapped


def uuid_to_bytes(uuid: str) -> bytes:
    """Return `GPU-xxxxxxxx-...` as the 16 bytes of the driver's API.

    Raises:
        DriverError: FINGERPRINT_MISMATCH for what is no GPU's UUID.
    """
    if not _FORM.fullmatch(uuid):
        raise DriverError(
            Reason.FINGERPRINT_MISMATCH,
            f"{uuid!r} is no GPU's UUID",
            "name whole GPUs as `nvidia-smi -L` does; parts of a GPU (MIG) cannot be checkpointed",
        )
    return bytes.fromhex(uuid.removeprefix("GPU-").replace("-", ""))


def _refuse_doubtful(side: str, gpus: Sequence[str]) -> None:
    for gpu in gpus:
        uuid_to_bytes(gpu)
        if list(gpus).count(gpu) > 1:
            raise DriverError(Reason.FINGERPRINT_MISMATCH, f"the {side} names {gpu} twice", "name each GPU once")
