"""The first phases of checkpoint and park: from a live replica to CUDA state in host memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from restore_driver import engines
from restore_driver.attempt.context import Attempt, LiveContext
from restore_driver.attempt.parked_records import is_parked
from restore_driver.attempt.walk import Details, Step
from restore_driver.cuda import CudaProcesses, cuda_pids, maps_cuda, tree_checkpoint, tree_lock
from restore_driver.deadline import Deadline
from restore_driver.engines import ProcessRoot
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.sockets import listeners
from restore_driver.proof import prove as proof
from restore_driver.steps.wake import process_root
from restore_driver.toolset import Toolset
from restore_driver.weights.loading import holder_of, require_held
from restore_driver.wire.phase import Phase
from restore_driver.wire.replica_spec import ReplicaSpec

_TreeStep = Callable[[CudaProcesses, Sequence[int], Deadline], tuple[int, ...]]


class QuiesceSteps:
    """Steps on one live replica, for one attempt."""

    def __init__(
        self, tools: Toolset, pid: int, replica: ReplicaSpec, holder: Path | None, context: LiveContext
    ) -> None:
        self.tools, self.pid, self.replica, self.holder = tools, pid, replica, holder
        self.context = context

    @property
    def root(self) -> ProcessRoot:
        """Where the replica's sockets and files are reached."""
        return process_root(self.pid)

    def steps(self) -> dict[Phase, Step]:
        """Return the step of every phase of this module."""
        return {
            Phase.GATE: self.gate,
            Phase.LOCK: self.lock,
            Phase.RECORD: self.record,
            Phase.QUIESCE: self.quiesce,
            Phase.CUDA_LOCK: self.cuda_lock,
            Phase.CUDA_CHECKPOINT: self.cuda_checkpoint,
        }

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Refuse a process that must not be stopped, or that could not be resumed."""
        refuse_foreign(self.pid)
        if is_parked(self.tools.state, self.pid):
            raise DriverError(Reason.REQUEST_INVALID, f"process {self.pid} is parked", "unpark it")
        require_held(self.replica, self.holder, deadline)
        attempt.key = replica_key(self.pid)
        self.context.pids = pids = proc.tree(self.pid)
        reading = None if self.tools.cuda is None else self.tools.cuda.memory(deadline.left_s())
        self.context.memory = reading
        # While it serves: what it needs when it wakes.
        self.context.device_bytes = 0 if reading is None else reading.process_memory_bytes(pids)
        return {"processes": len(pids)}

    def lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Take the replica's lock: one attempt at a time."""
        attempt.open_journal(self.tools.state.attempts)
        attempt.intend(
            pid=self.pid,
            start_ticks=proc.start_ticks(self.pid),
            replica=self.replica.model_dump(mode="json"),
            holder=str(holder_of(self.replica, self.holder) or ""),
        )
        return {"key": attempt.key}

    def record(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Record the known answers while the replica serves."""
        record = proof.record(self.replica, self.root, deadline.left_s())
        self.context.proof = record
        attempt.facts["proof"] = record.model_dump(mode="json")
        return {"requests": len(record.answers)}

    def quiesce(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Quiesce the engine; it releases its weights and KV where it can."""
        attempt.intend(quiesced=True)
        details = engines.quiesce(
            self.replica.engine, self.root, deadline.left_s(), note=lambda facts: attempt.intend(**facts)
        )
        return dict(details)

    def cuda_lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Lock every CUDA process of the tree, before any is checkpointed."""
        self.context.pids = proc.tree(self.pid)  # compile workers and the like are gone now
        self._note_listeners(attempt)
        attempt.intend(cuda_pids=list(self._cuda_pids()))
        self._move(attempt, tree_lock, deadline)
        return {"cuda_processes": len(attempt.facts["cuda_pids"])}

    def cuda_checkpoint(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Move the GPU memory of every CUDA process into its host memory."""
        self._move(attempt, tree_checkpoint, deadline)
        return {"cuda_processes": len(attempt.facts["cuda_pids"])}

    def _note_listeners(self, attempt: Attempt) -> None:
        """Record the listeners anew, without those of workers that ended during quiesce."""
        now = listeners(self.pid, self.context.pids)
        self.context.proof = self.context.proof.model_copy(update={"listeners": now})
        attempt.facts["proof"] = self.context.proof.model_dump(mode="json")

    def _move(self, attempt: Attempt, step: _TreeStep, deadline: Deadline) -> None:
        """Run `step` on the CUDA processes, if there are any, and note those that are left."""
        if not attempt.facts["cuda_pids"]:
            return
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing)
        left = step(self.tools.cuda, attempt.facts["cuda_pids"], deadline)
        attempt.intend(cuda_pids=list(left))
        if not proc.is_alive(self.pid):
            raise DriverError(Reason.REPLICA_LOST, f"process {self.pid} ended while it was quiesced", "replace it")

    def _cuda_pids(self) -> tuple[int, ...]:
        pids = self.context.pids
        if self.tools.cuda is not None:
            return cuda_pids(pids, self.tools.cuda)
        if any(maps_cuda(pid) for pid in pids):
            raise DriverError(Reason.CUDA_MISSING, f"process {self.pid} uses CUDA, and {self.tools.cuda_missing}")
        return ()


def replica_key(pid: int) -> str:
    """Return the key of one process for all sequences that work on it.

    Raises:
        DriverError: REPLICA_LOST.
    """
    return f"replica-{pid}-{proc.start_ticks(pid)}"


def refuse_foreign(pid: int) -> None:
    """Refuse what is no replica: no process, a kernel thread, PID 1 of a namespace, this driver or a parent of it.

    Raises:
        DriverError: REPLICA_LOST or REQUEST_INVALID.
    """
    if not proc.is_alive(pid):
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist", "name a process that runs")
    if proc.pid_chain(pid)[-1] == 1:
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"process {pid} is PID 1 of its pid namespace",
            "start the server under an init that reaps (tini, `docker run --init`, a pod with a pause process)",
        )
    try:
        Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        problem = f"process {pid} has no program: it is a kernel thread, or not accessible"
        raise DriverError(Reason.REQUEST_INVALID, problem, "name the replica's process") from None
    if os.getpid() in proc.tree(pid):
        raise DriverError(
            Reason.REQUEST_INVALID, f"process {pid} is this driver or a parent of it", "name the replica's process"
        )
