"""Waking an engine whose weights a holder keeps: wherever that happens, after a restore, an unpark, a checkpoint that
leaves its replica running, or an undo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from restore_driver import engines
from restore_driver.deadline import Deadline
from restore_driver.engines import Note, Target
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.weights.client import HolderClient
from restore_driver.wire.replica_spec import InProcessEngine, ReplicaSpec


@dataclass
class Loading:
    """Copies to the card that are under way for one replica."""

    holder: Path | None = None
    client: HolderClient | None = None
    leases: dict[str, str] = field(default_factory=dict)

    def release(self, deadline: Deadline) -> None:
        """Gives the memory back at once; what somebody has mapped stays his."""
        if self.client is not None:
            with suppress(DriverError):  # a holder that can't be asked ends them with the connection
                for token in self.leases.values():
                    self.client.release(token, deadline.left_s())
        self.close()

    def close(self) -> None:
        """Ends the connection; leases that nobody took end with it."""
        if self.client is not None:
            self.client.close()


def holder_of(replica: ReplicaSpec, holder: Path | None) -> Path | None:
    """Where the replica's holder is reached; None for a replica that needs none.

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
    """Refuses to bring a replica to rest whose weights could not be had again.

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
    """Has the holder begin its copies; returns at once. A holder of another card than the replica's only one refuses.

    Raises:
        DriverError: TOO_LITTLE_MEMORY with nothing touched; WEIGHTS_FAILED; NOT_TRUSTED for its directory.
    """
    path = holder_of(replica, holder)
    if path is None:
        return Loading()
    require_trusted(path.parent)
    loading = Loading(path, HolderClient(path))
    assert loading.client is not None
    try:
        for model in models_of(replica):
            loading.leases[model] = loading.client.load(model, deadline.left_s(), gpus[0] if len(gpus) == 1 else None)
    except DriverError:
        loading.close()
        raise
    return loading


def wake(
    replica: ReplicaSpec,
    target: Target,
    loading: Loading,
    deadline: Deadline,
    *,
    note: Note,
    released: bool = True,
    memory_back: bool = False,
) -> Mapping[str, Any]:
    """Resumes the engine; what it mapped stays its own when the leases end."""
    waking = engines.Waking(leases=loading.leases, released=released, memory_back=memory_back)
    details = engines.resume(replica.engine, target, deadline.left_s(), waking, note)
    if loading.client is not None:
        for token in loading.leases.values():
            loading.client.release(token, deadline.left_s())
    return details


def models_of(replica: ReplicaSpec) -> tuple[str, ...]:
    """Models that the replica takes from a holder."""
    return replica.engine.models if isinstance(replica.engine, InProcessEngine) else ()
