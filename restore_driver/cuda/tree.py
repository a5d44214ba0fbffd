"""Several processes as one: which of a tree use CUDA, and all of them moved, or none.

All are locked before any is checkpointed, as no process may wait for another's GPU work. A failure takes back what
was done before it, in reverse, and never hides behind its own clean-up. Within a step the processes may go side by
side (`parallel`): each call concerns one process. Results keep the order of the PIDs, and so does the error: the first
PID's that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from restore_driver.cuda.ports import CudaProcesses, DeviceMap, NotCuda
from restore_driver.cuda.states import CudaState
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError

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


def tree_checkpoint(
    processes: CudaProcesses,
    pids: Sequence[int],
    *,
    lock_timeout_s: float,
    deadline_s: float,
    parallel: bool = False,
) -> dict[int, float]:
    """Running -> checkpointed for all; seconds in the driver by PID.

    Raises:
        DriverError: the first failure; by then all processes run on, as far as they could be brought back.
    """
    deadline = Deadline.after("the CUDA checkpoint of the tree", deadline_s)
    try:
        locked = [processes.lock(pid, min(lock_timeout_s, deadline.left_s())) for pid in pids]
        moved = _each(pids, lambda pid: processes.checkpoint(pid, deadline.left_s()), parallel)
    except BaseException:
        bring_back(processes, pids)
        raise
    return {pid: lock_s + move_s for pid, lock_s, move_s in zip(pids, locked, moved, strict=True)}


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
    """All processes running again from wherever they are, the last first; what failed is returned, not raised.

    Idempotent, and holds for processes that were never locked: an undo may know no more than the PIDs.
    """
    failed = []
    deadline = Deadline.after("bringing CUDA processes back", deadline_s)
    for pid in reversed(pids):
        try:
            if processes.state(pid, deadline.left_s()) is CudaState.CHECKPOINTED:
                processes.restore(pid, None, deadline.left_s())
            processes.unlock(pid, deadline.left_s())
        except DriverError as error:
            failed.append(error)
    return tuple(failed)


def _each(pids: Sequence[int], step: Callable[[int], float], parallel: bool) -> list[float]:
    """`step` for every PID; side by side, all are waited for even when one fails."""
    if not parallel or len(pids) < 2:
        return [step(pid) for pid in pids]
    with ThreadPoolExecutor(len(pids), thread_name_prefix="cuda-tree") as pool:
        return [running.result() for running in [pool.submit(step, pid) for pid in pids]]
