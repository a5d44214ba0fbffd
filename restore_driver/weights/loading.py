"""Request a replica's weights from its holder: the copies to the GPU run while other phases proceed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.weights.client import HolderClient
from restore_driver.wire.replica_spec import InProcessEngine, ReplicaSpec


@dataclass
class Loading:
    """Copies to the GPU that are under way for one replica."""

    holder: Path | None = None
    client: HolderClient | None = None
    leases: dict[str, str] = field(default_factory=dict)

    def release(self, deadline: Deadline) -> None:
        """Release the leases at once; memory that a process has mapped stays that process's."""
        if self.client is not None:
            with suppress(DriverError):  # a holder that does not answer ends them with the connection
                for token in self.leases.values():
                    self.client.release(token, deadline.left_s())
        self.close()

    def close(self) -> None:
        """Close the connection; leases that were not taken end with it."""
        if self.client is not None:
            self.client.close()


def holder_of(replica: ReplicaSpec, holder: Path | None) -> Path | None:
    """Return the socket of the replica's holder; None for a replica that needs none.

    Raises:
        DriverError: REQUEST_INVALID when it needs one and none is named.
    """
    if not models_of(replica):
        return None
    known = getattr(replica.engine, "holder", None)
    path = holder or (Path(known) if known else None)
    if path is None:
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"the replica takes {models_of(replica)[0]} from a weights holder",
            "name its socket",
        )
    return path


def require_held(replica: ReplicaSpec, holder: Path | None, deadline: Deadline) -> None:
    """Refuse a replica whose holder does not have all of its models: quiesced, it could not be resumed.

    Raises:
        DriverError: WEIGHTS_FAILED naming the model; REQUEST_INVALID.
    """
    path = holder_of(replica, holder)
    if path is None:
        return
    client = HolderClient(path)
    try:
        held = client.status(deadline.left_s())["models"]
    finally:
        client.close()
    for model in models_of(replica):
        if model not in held:
            raise DriverError(Reason.WEIGHTS_FAILED, f"the holder at {path} has no model {model}", "preload it")


def begin_loading(replica: ReplicaSpec, holder: Path | None, deadline: Deadline, gpus: Sequence[str] = ()) -> Loading:
    """Have the holder begin its copies, and return at once. `gpus` are UUIDs; a single one must be the holder's own.

    Raises:
        DriverError: TOO_LITTLE_MEMORY with nothing touched; WEIGHTS_FAILED; NOT_TRUSTED for its directory.
    """
    path = holder_of(replica, holder)
    if path is None:
        return Loading()
    require_trusted(path.parent)
    client = HolderClient(path)
    loading = Loading(path, client)
    try:
        for model in models_of(replica):
            loading.leases[model] = client.load(model, deadline.left_s(), gpus[0] if len(gpus) == 1 else None)
    except DriverError:
        loading.close()
        raise
    return loading


def models_of(replica: ReplicaSpec) -> tuple[str, ...]:
    """Return the models that the replica takes from a holder."""
    return replica.engine.models if isinstance(replica.engine, InProcessEngine) else ()
