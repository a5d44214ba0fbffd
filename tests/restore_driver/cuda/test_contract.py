"""What any driver must do, and both adapters with it: run on the stand-in everywhere, and on a GPU where there is one.

python -m pytest tests/restore_driver/cuda -k real      # on a machine with a GPU, torch and cuda-bindings
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from restore_driver.cuda import CudaState, MemoryProof, NotCuda, cuda_pids, tree_checkpoint, tree_lock, tree_restore
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.cuda.conftest import World

LONG_S = 30.0


def test_lock_checkpoint_restore_unlock(world: World) -> None:
    """The whole walk: each step leads where the table says, and the process is as it was."""
    subject = world.gpu.spawn()
    states = [world.processes.state(subject.pid)]
    steps: tuple[Callable[[], float], ...] = (
        lambda: world.processes.lock(subject.pid, LONG_S),
        lambda: world.processes.checkpoint(subject.pid, LONG_S),
        lambda: world.processes.restore(subject.pid, None, LONG_S),
        lambda: world.processes.unlock(subject.pid, LONG_S),
    )
    for step in steps:
        assert step() >= 0.0
        states.append(world.processes.state(subject.pid))

    assert states == [
        CudaState.RUNNING,
        CudaState.LOCKED,
        CudaState.CHECKPOINTED,
        CudaState.LOCKED,
        CudaState.RUNNING,
    ]
    assert world.gpu.intact(subject)


def test_checkpointed_process_holds_no_device_memory(world: World) -> None:
    """The proof that park gives, and that it is refused while the memory is still held."""
    subject = world.gpu.spawn()
    proof = MemoryProof((subject.pid,), world.processes.memory(LONG_S), world.processes.memory)
    world.processes.lock(subject.pid, LONG_S)
    with pytest.raises(DriverError) as refused:
        proof.after(LONG_S)
    world.processes.checkpoint(subject.pid, LONG_S)
    facts = proof.after(LONG_S)

    assert refused.value.reason is Reason.CUDA_FAILED
    assert facts["freed_bytes"] >= 64 << 20
    world.processes.restore(subject.pid, None, LONG_S)
    world.processes.unlock(subject.pid, LONG_S)
    assert world.gpu.intact(subject)


def test_actions_repeated_are_done_already(world: World) -> None:
    """A lock of a locked process and an unlock of a running one succeed: what was asked for is so."""
    subject = world.gpu.spawn()
    world.processes.unlock(subject.pid, LONG_S)
    world.processes.lock(subject.pid, LONG_S)
    world.processes.lock(subject.pid, LONG_S)
    world.processes.checkpoint(subject.pid, LONG_S)
    world.processes.checkpoint(subject.pid, LONG_S)
    world.processes.restore(subject.pid, None, LONG_S)
    world.processes.restore(subject.pid, None, LONG_S)
    world.processes.unlock(subject.pid, LONG_S)
    world.processes.unlock(subject.pid, LONG_S)

    assert world.processes.state(subject.pid) is CudaState.RUNNING
    assert world.gpu.intact(subject)


def test_wrong_order_is_refused_and_moves_nothing(world: World) -> None:
    """Checkpoint or restore of a running process, lock or unlock of a checkpointed one."""
    subject = world.gpu.spawn()
    refusals = [
        refusal(lambda: world.processes.checkpoint(subject.pid, LONG_S)),
        refusal(lambda: world.processes.restore(subject.pid, None, LONG_S)),
    ]
    running = world.processes.state(subject.pid)
    world.processes.lock(subject.pid, LONG_S)
    world.processes.checkpoint(subject.pid, LONG_S)
    refusals.append(refusal(lambda: world.processes.lock(subject.pid, LONG_S)))
    refusals.append(refusal(lambda: world.processes.unlock(subject.pid, LONG_S)))
    checkpointed = world.processes.state(subject.pid)
    world.processes.restore(subject.pid, None, LONG_S)
    world.processes.unlock(subject.pid, LONG_S)

    assert refusals == [
        f"checkpoint of process {subject.pid}: it is running",
        f"restore of process {subject.pid}: it is running",
        f"lock of process {subject.pid}: it is checkpointed",
        f"unlock of process {subject.pid}: it is checkpointed",
    ]
    assert (running, checkpointed) == (CudaState.RUNNING, CudaState.CHECKPOINTED)
    assert world.gpu.intact(subject)


def test_lock_gives_up_while_gpu_work_runs(world: World) -> None:
    """A lock that misses its time leaves the process running."""
    subject = world.gpu.spawn()
    world.gpu.occupy(subject)
    with pytest.raises(DriverError) as missed:
        world.processes.lock(subject.pid, 2.0)

    assert missed.value.reason is Reason.DEADLINE_EXCEEDED
    assert world.processes.state(subject.pid, LONG_S) is CudaState.RUNNING


def test_process_without_cuda(world: World) -> None:
    """It is distinguished from a failure, and left out of a tree."""
    subject = world.gpu.spawn()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            with pytest.raises(NotCuda):
                world.processes.state(other.pid)
            with pytest.raises(NotCuda):
                world.processes.lock(other.pid, LONG_S)
            tree = (os.getpid(), other.pid, subject.pid)
            found = cuda_pids(tree, world.processes, LONG_S, may_be=lambda pid: pid != os.getpid())
        finally:
            other.kill()

    assert found == (subject.pid,)


def test_process_that_does_not_exist(world: World) -> None:
    """A PID that no process has any more."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(NotCuda):
        world.processes.state(gone.pid)


def test_tree_is_checkpointed_and_restored_whole(world: World) -> None:
    """Two processes, side by side where the adapter can."""
    subjects = [world.gpu.spawn(), world.gpu.spawn()]
    pids = [subject.pid for subject in subjects]
    locked = tree_lock(world.processes, pids, Deadline.after("locking", LONG_S))
    gone = tree_checkpoint(world.processes, locked, Deadline.after("the checkpoint", LONG_S))
    away = [world.processes.state(pid) for pid in pids]
    back = tree_restore(world.processes, pids, None, deadline_s=2 * LONG_S, parallel=True)

    assert (list(gone), list(back)) == (pids, pids)
    assert away == [CudaState.CHECKPOINTED] * 2
    assert [world.processes.state(pid) for pid in pids] == [CudaState.RUNNING] * 2
    assert all(world.gpu.intact(subject) for subject in subjects)


def refusal(step: Callable[[], object]) -> str:
    """What a refused step says."""
    with pytest.raises(DriverError) as refused:
        step()
    assert refused.value.reason is Reason.CUDA_FAILED
    return refused.value.detail
