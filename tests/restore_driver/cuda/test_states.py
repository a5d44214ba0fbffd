"""The table: where each action leads, what it refuses, and that the end counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from restore_driver.cuda.states import NEXT, CudaAction, CudaState, Order, carry_out
from restore_driver.errors import DriverError, Reason

PID = 7
NOT_MOVED = DriverError(Reason.CUDA_FAILED, "not moved")


@dataclass
class Process:
    """One process; a call that fails may still leave it where `after_failure` says, moved by somebody else."""

    now: CudaState
    fails: DriverError | None = None
    after_failure: CudaState | None = None
    called: list[CudaAction] = field(default_factory=list)

    def state(self, pid: int) -> CudaState:
        assert pid == PID
        return self.now

    def act(self, order: Order) -> None:
        self.called.append(order.action)
        if self.fails is not None:
            self.now = self.after_failure or self.now
            raise self.fails
        self.now = NEXT[self.now][order.action]


@pytest.mark.parametrize(
    ("before", "action", "after", "called"),
    [
        (CudaState.RUNNING, CudaAction.LOCK, CudaState.LOCKED, [CudaAction.LOCK]),
        (CudaState.RUNNING, CudaAction.UNLOCK, CudaState.RUNNING, []),
        (CudaState.LOCKED, CudaAction.LOCK, CudaState.LOCKED, []),
        (CudaState.LOCKED, CudaAction.CHECKPOINT, CudaState.CHECKPOINTED, [CudaAction.CHECKPOINT]),
        (CudaState.LOCKED, CudaAction.RESTORE, CudaState.LOCKED, []),
        (CudaState.LOCKED, CudaAction.UNLOCK, CudaState.RUNNING, [CudaAction.UNLOCK]),
        (CudaState.CHECKPOINTED, CudaAction.CHECKPOINT, CudaState.CHECKPOINTED, []),
        (CudaState.CHECKPOINTED, CudaAction.RESTORE, CudaState.LOCKED, [CudaAction.RESTORE]),
    ],
)
def test_allowed(before: CudaState, action: CudaAction, after: CudaState, called: list[CudaAction]) -> None:
    """Each row of the table; where the end is reached already, nothing is called."""
    process = Process(before)

    assert carry_out(process, Order(action, PID)) is after
    assert process == Process(after, called=called)


@pytest.mark.parametrize(
    ("before", "action"),
    [
        (CudaState.RUNNING, CudaAction.CHECKPOINT),
        (CudaState.RUNNING, CudaAction.RESTORE),
        (CudaState.CHECKPOINTED, CudaAction.LOCK),
        (CudaState.CHECKPOINTED, CudaAction.UNLOCK),
        *((CudaState.FAILED, action) for action in CudaAction),
    ],
)
def test_refused(before: CudaState, action: CudaAction) -> None:
    """What the table does not hold is refused, naming state and action, and the process is not touched."""
    process = Process(before)
    with pytest.raises(DriverError) as refused:
        carry_out(process, Order(action, PID))

    assert (refused.value.reason, refused.value.detail) == (
        Reason.CUDA_FAILED,
        f"{action.value} of process 7: it is {before.value}",
    )
    assert refused.value.hint
    assert process == Process(before)


def test_failed_call_that_reached_its_end_is_done() -> None:
    """An unlock that fails while the process runs: somebody else unlocked it first."""
    process = Process(CudaState.LOCKED, fails=NOT_MOVED, after_failure=CudaState.RUNNING)

    assert carry_out(process, Order(CudaAction.UNLOCK, PID)) is CudaState.RUNNING


@pytest.mark.parametrize("after", [CudaState.LOCKED, CudaState.FAILED])
def test_failed_call_keeps_its_own_error(after: CudaState) -> None:
    """The look after it changes nothing about what is reported."""
    process = Process(CudaState.LOCKED, fails=NOT_MOVED, after_failure=after)
    with pytest.raises(DriverError) as failed:
        carry_out(process, Order(CudaAction.UNLOCK, PID))

    assert failed.value is NOT_MOVED


def test_missed_deadline_is_never_success() -> None:
    """A lock that gave up is reported even if somebody else has locked meanwhile: that lock is not ours to count on."""
    missed = DriverError(Reason.DEADLINE_EXCEEDED, "too late")
    process = Process(CudaState.RUNNING, fails=missed, after_failure=CudaState.LOCKED)
    with pytest.raises(DriverError) as failed:
        carry_out(process, Order(CudaAction.LOCK, PID))

    assert failed.value is missed
