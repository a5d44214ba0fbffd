"""States of a CUDA process and the transitions between them: the one table of `cuCheckpointProcess*`.

    running --lock--> locked --checkpoint--> checkpointed --restore--> locked --unlock--> running

There is one state machine for each process, and NVIDIA's driver keeps it: between our read of a state and our call
another program may have changed it. So `carry_out` looks the transition up before the call, and reads the state once
more when the call fails. The end counts: an action whose next state is already reached is done (a lock of a locked
process, an unlock that fails while the process runs), so that undoing twice does no harm. An action that the table does
not hold is refused, naming state and action, and nothing is called.

What the table cannot show: a process leaves `failed` only by its end, and a restore that runs out of device memory
leads there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from restore_driver.cuda.gpu_map import DeviceMap
from restore_driver.errors import DriverError, Reason


class CudaState(StrEnum):
    """States as the driver names them."""

    RUNNING = "running"
    LOCKED = "locked"
    CHECKPOINTED = "checkpointed"
    FAILED = "failed"


class CudaAction(StrEnum):
    """The four calls, named as cuda-checkpoint names them."""

    LOCK = "lock"
    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    UNLOCK = "unlock"


NEXT: dict[CudaState, dict[CudaAction, CudaState]] = {
    CudaState.RUNNING: {
        CudaAction.LOCK: CudaState.LOCKED,
        CudaAction.UNLOCK: CudaState.RUNNING,
    },
    CudaState.LOCKED: {
        CudaAction.LOCK: CudaState.LOCKED,
        CudaAction.CHECKPOINT: CudaState.CHECKPOINTED,
        CudaAction.RESTORE: CudaState.LOCKED,
        CudaAction.UNLOCK: CudaState.RUNNING,
    },
    CudaState.CHECKPOINTED: {
        CudaAction.CHECKPOINT: CudaState.CHECKPOINTED,
        CudaAction.RESTORE: CudaState.LOCKED,
    },
    CudaState.FAILED: {},
}
"""State -> action -> next state; a next state equal to the state means there is nothing to call."""

_HINTS = {
    CudaState.RUNNING: "lock it first",
    CudaState.LOCKED: "checkpoint or unlock it first",
    CudaState.CHECKPOINTED: "restore it first",
    CudaState.FAILED: "end the process and replace the replica",
}


@dataclass(frozen=True)
class Order:
    """One action on one process; `timeout_s` is the lock's, `device_map` the restore's."""

    action: CudaAction
    pid: int
    timeout_s: float | None = None
    device_map: DeviceMap | None = None


class Actor(Protocol):
    """Carries out orders: the driver's API, or its command line."""

    def state(self, pid: int) -> CudaState:
        """Return the state of a process.

        Raises:
            DriverError: CUDA_FAILED (`NotCuda` without CUDA state), CUDA_MISSING, DEADLINE_EXCEEDED.
        """
        ...

    def act(self, order: Order) -> None:
        """Make one transition.

        Raises:
            DriverError: CUDA_FAILED, CUDA_MISSING, DEADLINE_EXCEEDED.
        """
        ...


def next_state(state: CudaState, action: CudaAction, pid: int) -> CudaState:
    """Return the state that `action` leads to.

    Raises:
        DriverError: CUDA_FAILED when the state has no such action.
    """
    found = NEXT[state].get(action)
    if found is None:
        raise DriverError(Reason.CUDA_FAILED, f"{action.value} of process {pid}: it is {state.value}", _HINTS[state])
    return found


def carry_out(actor: Actor, order: Order) -> CudaState:
    """Bring a process to the state that the order leads to, and return that state.

    Raises:
        DriverError: CUDA_FAILED when refused or failed; DEADLINE_EXCEEDED.
    """
    before = actor.state(order.pid)
    wanted = next_state(before, order.action, order.pid)
    if wanted is before:
        return wanted
    try:
        actor.act(order)
    except DriverError as error:
        if error.reason is Reason.CUDA_FAILED and _state_or_none(actor, order.pid) is wanted:
            return wanted
        raise
    return wanted


def _state_or_none(actor: Actor, pid: int) -> CudaState | None:
    """Read the state after a failed call; a failure of this read must not hide the call's."""
    try:
        return actor.state(pid)
    except DriverError:
        return None
