"""Bring a replica back onto its GPUs: weights, CUDA state, engine.

Restore and unpark do this in three phases, as other work lies between; a checkpoint that leaves its replica running and
the undo of a quiesce do it in one. All of them use the functions of this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from restore_driver import engines
from restore_driver.attempt.walk import Details
from restore_driver.cuda import DeviceMap, tree_restore
from restore_driver.deadline import Deadline
from restore_driver.engines import Note, ProcessRoot, ResumeState
from restore_driver.errors import DriverError, Reason
from restore_driver.toolset import Toolset
from restore_driver.weights.loading import Loading, begin_loading
from restore_driver.wire.replica_spec import ReplicaSpec


def process_root(pid: int) -> ProcessRoot:
    """Return where the sockets and files of a process are reached."""
    return ProcessRoot(pid, Path(f"/proc/{pid}/root"))


def restore_cuda(tools: Toolset, pids: Sequence[int], device_map: DeviceMap | None, deadline: Deadline) -> float:
    """Restore and unlock the CUDA state of processes; return the longest time in NVIDIA's driver, in seconds.

    Raises:
        DriverError: CUDA_MISSING, CUDA_FAILED, DEADLINE_EXCEEDED.
    """
    if not pids:
        return 0.0
    if tools.cuda is None:
        raise DriverError(Reason.CUDA_MISSING, tools.cuda_missing)
    return max(tree_restore(tools.cuda, pids, device_map, deadline_s=deadline.left_s(), parallel=True).values())


def resume_engine(  # noqa: PLR0913, PLR0917 - a phase's arguments, of two sequences
    replica: ReplicaSpec, root: ProcessRoot, loading: Loading, deadline: Deadline, note: Note, state: ResumeState
) -> Details:
    """Resume the engine, then release the leases: what the replica has mapped stays its own.

    Raises:
        DriverError: RESUME_FAILED, DEADLINE_EXCEEDED, REPLICA_LOST; WEIGHTS_FAILED.
    """
    details = engines.resume(replica.engine, root, deadline.left_s(), state, note)
    if loading.client is not None:
        for token in loading.leases.values():
            loading.client.release(token, deadline.left_s())
    return details


def wake(  # noqa: PLR0913, PLR0917 - a phase's arguments, from a request or from a journal
    tools: Toolset,
    replica: ReplicaSpec,
    pid: int,
    cuda_pids: Sequence[int],
    holder: Path | None,
    deadline: Deadline,
    note: Note,
    *,
    released: bool = True,
    memory_back: bool = False,
) -> Details:
    """Load weights, restore CUDA state and resume the engine of a replica on the GPUs that it had.

    `released` and `memory_back` are those of `ResumeState`. On a failure the leases are released at once, so that an
    undo can have the same GPU memory.

    Raises:
        DriverError: as `begin_loading`, `restore_cuda` and `resume_engine`.
    """
    loading = begin_loading(replica, holder, deadline)
    try:
        restore_cuda(tools, cuda_pids, None, deadline)
        state = ResumeState(leases=loading.leases, released=released, memory_back=memory_back)
        return resume_engine(replica, process_root(pid), loading, deadline, note, state)
    except DriverError:
        loading.release(deadline)
        raise
    finally:
        loading.close()
