"""Move the CUDA state of several processes as one: all of a tree's processes that use CUDA, or none.

All are locked before any is checkpointed, as no process may wait for another's GPU work. Within a step the processes
may be moved in parallel: each call concerns one process. Results keep the order of the PIDs, and the error that is
raised is that of the first PID that failed.
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
"""For rolling back, since the deadline of the failed step may be over."""


def maps_cuda(pid: int) -> bool:
    """Return True when a process has the driver's library mapped: it may use CUDA, and cannot without it."""
    try:
        return "libcuda.so" in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return False


def cuda_pids(
    tree: Sequence[int], processes: CudaProcesses, deadline_s: float = 10.0, may_be: Callable[[int], bool] = maps_cuda
) -> tuple[int, ...]:
    """Return the processes of a tree that hold CUDA state, in the tree's order; `may_be` is a cheap check beforehand.

    A process that ends during the query holds none, whatever the driver reports.

    Raises:
        DriverError: the state of a process could not be read. It is not left out: half a frozen tree is worse than
            none.
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
            if may_be(pid):  # it still has a memory map, so it has not ended
                raise
            continue
        found.append(pid)
    return tuple(found)


def tree_lock(processes: CudaProcesses, pids: Sequence[int], deadline: Deadline) -> tuple[int, ...]:
    """Lock (running -> locked) one after the other; return the PIDs that still exist.

    Raises:
        DriverError: the first failure; the caller rolls back.
    """
    return _surviving(pids, lambda pid: processes.lock(pid, deadline.left_s()), parallel=False)


def tree_checkpoint(processes: CudaProcesses, pids: Sequence[int], deadline: Deadline) -> tuple[int, ...]:
    """Checkpoint (locked -> checkpointed) in parallel, each its own memory; return the PIDs that still exist.

    Raises:
        DriverError: the first failure, once all calls have ended; the caller rolls back.
    """
    return _surviving(pids, lambda pid: processes.checkpoint(pid, deadline.left_s()), parallel=True)


def tree_restore(
    processes: CudaProcesses,
    pids: Sequence[int],
    device_map: DeviceMap | None,
    *,
    deadline_s: float,
    parallel: bool = False,
) -> dict[int, float]:
    """Restore all (checkpointed -> running), none unlocked before all are back; return seconds in the driver by PID.

    Nothing is rolled back on a failure: a process whose restore failed is lost, and its tree with it.

    Raises:
        DriverError: the first failure.
    """
    deadline = Deadline.after("the CUDA restore of the tree", deadline_s)
    moved = _each(pids, lambda pid: processes.restore(pid, device_map, deadline.left_s()), parallel=parallel)
    unlocked = [processes.unlock(pid, deadline.left_s()) for pid in pids]
    return {pid: move_s + unlock_s for pid, move_s, unlock_s in zip(pids, moved, unlocked, strict=True)}


def bring_back(processes: CudaProcesses, pids: Sequence[int], deadline_s: float = UNDO_S) -> tuple[DriverError, ...]:
    """Bring all processes to running from any state; return the failures instead of raising them.

    Idempotent, also for processes that were never locked: an undo may know no more than the PIDs. All run in parallel
    with the whole time each, so that one that hangs costs the others nothing.
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


def _surviving(pids: Sequence[int], step: Callable[[int], float], *, parallel: bool) -> tuple[int, ...]:
    """Call `step` for each PID; one that ended meanwhile is no longer of the tree, and its failure is ignored."""

    def attempt(pid: int) -> bool:
        try:
            step(pid)
        except DriverError:
            if is_alive(pid):
                raise
            return False
        return True

    return tuple(pid for pid, there in zip(pids, _each(pids, attempt, parallel=parallel), strict=True) if there)


def _each(pids: Sequence[int], step: Callable[[int], T], *, parallel: bool) -> list[T]:
    """Call `step` for every PID; in parallel, all are waited for even when one fails."""
    if not parallel or len(pids) < 2:
        return [step(pid) for pid in pids]
    with ThreadPoolExecutor(len(pids), thread_name_prefix="cuda-tree") as pool:
        return [running.result() for running in [pool.submit(step, pid) for pid in pids]]
