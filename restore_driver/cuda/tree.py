"""Several processes as one: which of a tree use CUDA, and all of them moved, or none.

All are locked before any is checkpointed, as no process may wait for another's GPU work. Within a step the processes
may go side by side (`parallel`): each call concerns one process. Results keep the order of the PIDs, and so does the
error: the first PID's that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from restore_driver.cuda.gpu_map import DeviceMap
from restore_driver.cuda.ports import CudaProcesses, NotCuda
from restore_driver.cuda.states import CudaState
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError
from restore_driver.host.proc import is_alive

T = TypeVar("T")

UNDO_S = 30.0
"""For what was done to be taken back, since the deadline of what failed may be over."""


def maps_cuda(pid: int) -> bool:
    """True when a process has the driver's library mapped: without it, it can't use CUDA; with it, it may."""
    try:
        return "libcuda.so" in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return False


def cuda_pids(
    tree: Sequence[int], processes: CudaProcesses, deadline_s: float = 10.0, may_be: Callable[[int], bool] = maps_cuda
) -> tuple[int, ...]:
    """Those of a process tree that hold CUDA state, in the tree's order; `may_be` is the cheap look beforehand.

    A process that ends while it is asked holds none, whatever the driver says of it.

    Raises:
        DriverError: a process could not be asked. It is not left out: half a frozen tree is worse than none.
    """
    deadline = Deadline.after("the search for CUDA processes", deadline_s)
    found = []
    for pid in tree:
        if not may_be(pid):
            continue
        try:
            processes.state(pid, deadline.left_s())
        except NotCuda:
            continue
        except DriverError:
            if may_be(pid):  # it has a memory map still, so it has not ended
                raise
            continue
        found.append(pid)
    return tuple(found)


def tree_lock(processes: CudaProcesses, pids: Sequence[int], deadline: Deadline) -> tuple[int, ...]:
    """Running -> locked, one after the other; those that are still there.

    Raises:
        DriverError: the first failure; taking back is the caller's.
    """
    return _those_left(pids, lambda pid: processes.lock(pid, deadline.left_s()), False)


def tree_checkpoint(processes: CudaProcesses, pids: Sequence[int], deadline: Deadline) -> tuple[int, ...]:
    """Locked -> checkpointed, side by side: each moves its own memory; those that are still there.

    Raises:
        DriverError: the first failure, with none at work any more; taking back is the caller's.
    """
    return _those_left(pids, lambda pid: processes.checkpoint(pid, deadline.left_s()), True)


def tree_restore(
    processes: CudaProcesses,
    pids: Sequence[int],
    device_map: DeviceMap | None,
    *,
    deadline_s: float,
    parallel: bool = False,
) -> dict[int, float]:
    """Checkpointed -> running for all; none is unlocked before all are back. Seconds in the driver by PID.

    Nothing is taken back on a failure: a process whose restore failed is lost, and its tree with it.

    Raises:
        DriverError: the first failure.
    """
    deadline = Deadline.after("the CUDA restore of the tree", deadline_s)
    moved = _each(pids, lambda pid: processes.restore(pid, device_map, deadline.left_s()), parallel)
    unlocked = [processes.unlock(pid, deadline.left_s()) for pid in pids]
    return {pid: move_s + unlock_s for pid, move_s, unlock_s in zip(pids, moved, unlocked, strict=True)}


def bring_back(processes: CudaProcesses, pids: Sequence[int], deadline_s: float = UNDO_S) -> tuple[DriverError, ...]:
    """All processes running again from wherever they are; what failed is returned, not raised.

    Idempotent, and holds for processes that were never locked: an undo may know no more than the PIDs. Each has the
    whole time, side by side: one that hangs must not cost the others theirs.
    """
    deadline = Deadline.after("bringing CUDA processes back", deadline_s)

    def bring(pid: int) -> DriverError | None:
        try:
            if processes.state(pid, deadline.left_s()) is CudaState.CHECKPOINTED:
                processes.restore(pid, None, deadline.left_s())
            processes.unlock(pid, deadline.left_s())
        except DriverError as error:
            return error
        return None

    if not pids:
        return ()
    with ThreadPoolExecutor(len(pids), thread_name_prefix="cuda-back") as pool:
        return tuple(error for error in pool.map(bring, pids) if error is not None)


def _those_left(pids: Sequence[int], step: Callable[[int], float], parallel: bool) -> tuple[int, ...]:
    """`step` for each; a process that ended by itself meanwhile is none of the tree any more, whatever failed of it."""

    def attempt(pid: int) -> bool:
        try:
            step(pid)
        except DriverError:
            if is_alive(pid):
                raise
            return False
        return True

    return tuple(pid for pid, there in zip(pids, _each(pids, attempt, parallel), strict=True) if there)


def _each(pids: Sequence[int], step: Callable[[int], T], parallel: bool) -> list[T]:
    """`step` for every PID; side by side, all are waited for even when one fails."""
    if not parallel or len(pids) < 2:
        return [step(pid) for pid in pids]
    with ThreadPoolExecutor(len(pids), thread_name_prefix="cuda-tree") as pool:
        return [running.result() for running in [pool.submit(step, pid) for pid in pids]]
