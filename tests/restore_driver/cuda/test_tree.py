"""All processes of a tree or none: the order of the calls, and what a failure takes back."""

from __future__ import annotations

import pytest

from restore_driver.cuda import (
    CudaState,
    HelperClient,
    bring_back,
    cuda_pids,
    maps_cuda,
    tree_checkpoint,
    tree_lock,
    tree_restore,
)
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.cuda.conftest import StandIn

LONG_S = 30.0


@pytest.fixture
def pids(stand_in: StandIn) -> list[int]:
    return [stand_in.spawn().pid for _ in range(3)]


def words(stand_in: StandIn) -> list[tuple[str, int]]:
    """Call and PID of what was called."""
    return [(line.split()[0], int(line.split()[1])) for line in stand_in.calls()]


def freeze(client: HelperClient, pids: list[int], deadline_s: float = LONG_S) -> tuple[int, ...]:
    """What the steps of a checkpoint do, with what their undo does on a failure."""
    deadline = Deadline.after("the checkpoint of the tree", deadline_s)
    try:
        return tree_checkpoint(client, tree_lock(client, pids, deadline), deadline)
    except DriverError:
        bring_back(client, pids)
        raise


def test_all_are_locked_before_any_is_checkpointed(stand_in: StandIn, client: HelperClient, pids: list[int]) -> None:
    assert freeze(client, pids) == tuple(pids)
    assert words(stand_in)[:3] == [("lock", pid) for pid in pids]
    assert sorted(words(stand_in)[3:]) == sorted(("checkpoint", pid) for pid in pids)


def test_all_are_restored_before_any_is_unlocked(stand_in: StandIn, client: HelperClient, pids: list[int]) -> None:
    for pid in pids:
        stand_in.set_state(pid, "checkpointed")
    tree_restore(client, pids, None, deadline_s=LONG_S)

    assert words(stand_in) == [("restore", pid) for pid in pids] + [("unlock", pid) for pid in pids]


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_failure_rolls_all_processes_back(
    stand_in: StandIn, client: HelperClient, pids: list[int], call: str, which: int
) -> None:
    stand_in.fault(call, pids[which], 999)
    with pytest.raises(DriverError) as failed:
        freeze(client, pids)

    name = f"cuCheckpointProcess{call.capitalize()} of process {pids[which]}"
    assert (failed.value.reason, failed.value.detail) == (Reason.CUDA_FAILED, f"{name}: CUDA_ERROR_UNKNOWN")
    assert [client.state(pid) for pid in pids] == [CudaState.RUNNING] * 3


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_process_that_ends_meanwhile_is_left_out_of_the_tree(
    stand_in: StandIn, client: HelperClient, call: str
) -> None:
    """A compile worker, say: the driver knows nothing of it by then, and that is no failure."""
    subjects = [stand_in.spawn() for _ in range(3)]
    pids = [subject.pid for subject in subjects]
    stand_in.fault(call, pids[1], 304)
    subjects[1].child.kill()
    subjects[1].child.wait()

    assert freeze(client, pids) == (pids[0], pids[2])


def test_hung_checkpoint_rolls_all_processes_back(stand_in: StandIn, client: HelperClient, pids: list[int]) -> None:
    """Through a fresh helper, as the old one is stuck."""
    stand_in.fault("checkpoint", pids[2], "hang")
    client.start(LONG_S)
    with pytest.raises(DriverError) as missed:
        freeze(client, pids, 1.5)

    assert missed.value.reason is Reason.DEADLINE_EXCEEDED
    assert [client.state(pid) for pid in pids] == [CudaState.RUNNING] * 3


def test_failed_roll_back_does_not_hide_the_first_error(
    stand_in: StandIn, client: HelperClient, pids: list[int]
) -> None:
    stand_in.fault("checkpoint", pids[2], 999)
    stand_in.fault("unlock", pids[1], 999)
    with pytest.raises(DriverError) as failed:
        freeze(client, pids)

    assert failed.value.detail == f"cuCheckpointProcessCheckpoint of process {pids[2]}: CUDA_ERROR_UNKNOWN"
    assert [client.state(pid) for pid in pids] == [CudaState.RUNNING, CudaState.LOCKED, CudaState.RUNNING]


def test_failed_restore_unlocks_no_process(stand_in: StandIn, client: HelperClient, pids: list[int]) -> None:
    """It is final: the caller ends the tree."""
    for pid in pids:
        stand_in.set_state(pid, "checkpointed")
    stand_in.fault("restore", pids[1], 2)
    with pytest.raises(DriverError) as failed:
        tree_restore(client, pids, None, deadline_s=LONG_S, parallel=True)

    assert failed.value.detail == f"cuCheckpointProcessRestore of process {pids[1]}: CUDA_ERROR_OUT_OF_MEMORY"
    assert [client.state(pid) for pid in pids] == [CudaState.LOCKED, CudaState.CHECKPOINTED, CudaState.LOCKED]


def test_bring_back_from_anywhere_and_twice(stand_in: StandIn, client: HelperClient, pids: list[int]) -> None:
    for pid, state in zip(pids, ("running", "locked", "checkpointed"), strict=True):
        stand_in.set_state(pid, state)

    assert (bring_back(client, pids), bring_back(client, pids)) == ((), ())
    assert [client.state(pid) for pid in pids] == [CudaState.RUNNING] * 3


def test_search_fails_for_a_process_whose_state_cannot_be_read(
    stand_in: StandIn, client: HelperClient, pids: list[int]
) -> None:
    """Unlike one without CUDA, it may hold half of the tree's state."""
    (stand_in.directory / "processes" / str(pids[0])).unlink()
    without = cuda_pids(pids, client, LONG_S, may_be=lambda pid: True)
    stand_in.fault("state", pids[1], 304)
    with pytest.raises(DriverError) as failed:
        cuda_pids(pids, client, LONG_S, may_be=lambda pid: True)

    assert without == tuple(pids[1:])
    assert failed.value.detail == f"cuCheckpointProcessGetState of process {pids[1]}: CUDA_ERROR_OPERATING_SYSTEM"


def test_maps_cuda_is_false_without_the_library_mapped(pids: list[int]) -> None:
    assert not maps_cuda(pids[0])
    assert not maps_cuda(1 << 22)
