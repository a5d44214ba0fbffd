"""Asked -> off the card: what a checkpoint and a park begin with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from restore_driver import engines
from restore_driver.attempt.journal import Journal
from restore_driver.attempt.walk import Attempt, Step
from restore_driver.cuda import CudaProcesses, cuda_pids, maps_cuda, tree_checkpoint, tree_lock
from restore_driver.deadline import Deadline
from restore_driver.engines import Target
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.sockets import listeners
from restore_driver.proof import prove as proof
from restore_driver.steps.records import is_parked
from restore_driver.steps.weights import holder_of, require_held
from restore_driver.tools import Tools
from restore_driver.wire.phase import Phase
from restore_driver.wire.replica_spec import ReplicaSpec

Details = Mapping[str, Any]
_TreeStep = Callable[[CudaProcesses, Sequence[int], Deadline], tuple[int, ...]]


class Freezing:
    """Steps on one live replica."""

    def __init__(self, tools: Tools, pid: int, replica: ReplicaSpec, sequence: str, holder: Path | None = None) -> None:
        self.tools, self.pid, self.replica, self.sequence, self.holder = tools, pid, replica, sequence, holder

    @property
    def target(self) -> Target:
        """Where the replica's sockets and files are reached."""
        return Target(self.pid, Path(f"/proc/{self.pid}/root"))

    def steps(self) -> dict[Phase, Step]:
        """Every phase of this module."""
        return {
            Phase.GATE: self.gate,
            Phase.LOCK: self.lock,
            Phase.RECORD: self.record,
            Phase.QUIESCE: self.quiesce,
            Phase.CUDA_LOCK: self.cuda_lock,
            Phase.CUDA_CHECKPOINT: self.cuda_checkpoint,
        }

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Refuses a process that is not ours to stop."""
        refuse_foreign(self.pid)
        if is_parked(self.tools.state, self.pid):
            raise DriverError(Reason.REQUEST_INVALID, f"process {self.pid} is parked", "unpark it")
        require_held(self.replica, self.holder, deadline)
        attempt.key = replica_key(self.pid)
        attempt.live["pids"] = pids = proc.tree(self.pid)
        reading = None if self.tools.cuda is None else self.tools.cuda.memory(deadline.left_s())
        attempt.live["memory"] = reading
        # While it serves: what it needs when it wakes; 0 where nobody tells.
        attempt.live["device_bytes"] = 0 if reading is None else reading.process_memory_bytes(pids)
        return {"processes": len(pids)}

    def lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """One attempt a replica at a time."""
        attempt.journal = Journal.open(self.tools.state.attempts, self.sequence, attempt.key)
        attempt.intend(
            pid=self.pid,
            start_ticks=proc.start_ticks(self.pid),
            replica=self.replica.model_dump(mode="json"),
            holder=str(holder_of(self.replica, self.holder) or ""),
        )
        return {"key": attempt.key}

    def record(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Asks for the known answers while the replica is well."""
        record = proof.record(self.replica, self.target, deadline.left_s())
        attempt.live["proof"] = record
        attempt.facts["proof"] = record.model_dump(mode="json")
        return {"requests": len(record.answers)}

    def quiesce(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Brings the engine to rest; its weights and KV leave the card where it can."""
        attempt.intend(quiesced=True)
        details = engines.quiesce(
            self.replica.engine, self.target, deadline.left_s(), note=lambda facts: attempt.intend(**facts)
        )
        return dict(details)

    def cuda_lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Locks every CUDA process of the tree, before any is checkpointed."""
        attempt.live["pids"] = proc.tree(self.pid)  # compile workers and the like are gone now
        self._note_listeners(attempt)
        attempt.intend(cuda_pids=list(self._cuda_pids(attempt)))
        self._move(attempt, tree_lock, deadline)
        return {"cuda_processes": len(attempt.facts["cuda_pids"])}

    def cuda_checkpoint(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Moves the device memory of every CUDA process into its host memory."""
        self._move(attempt, tree_checkpoint, deadline)
        return {"cuda_processes": len(attempt.facts["cuda_pids"])}

    def _note_listeners(self, attempt: Attempt) -> None:
        """A worker that ended on the way to rest may have had one, which nobody shall ask for after the restore."""
        now = listeners(self.pid, attempt.live["pids"])
        attempt.live["proof"] = attempt.live["proof"].model_copy(update={"listeners": now})
        attempt.facts["proof"] = attempt.live["proof"].model_dump(mode="json")

    def _move(self, attempt: Attempt, step: _TreeStep, deadline: Deadline) -> None:
        """`step` for the CUDA processes that there are, if there are any."""
        if not attempt.facts["cuda_pids"]:
            return
        assert self.tools.cuda is not None
        left = step(self.tools.cuda, attempt.facts["cuda_pids"], deadline)
        attempt.intend(cuda_pids=list(left))
        if not proc.is_alive(self.pid):
            raise DriverError(Reason.REPLICA_LOST, f"process {self.pid} ended on its way to rest", "replace it")

    def _cuda_pids(self, attempt: Attempt) -> tuple[int, ...]:
        pids = tuple(attempt.live["pids"])
        if self.tools.cuda is not None:
            return cuda_pids(pids, self.tools.cuda)
        if any(maps_cuda(pid) for pid in pids):
            raise DriverError(Reason.CUDA_MISSING, f"process {self.pid} uses CUDA, and {self.tools.cuda_missing}")
        return ()


def replica_key(pid: int) -> str:
    """Names one process for all sequences that work on it.

    Raises:
        DriverError: REPLICA_LOST.
    """
    return f"replica-{pid}-{proc.start_ticks(pid)}"


def refuse_foreign(pid: int) -> None:
    """Refuses what is no replica: nobody, a kernel thread, the first process of a namespace, ourselves or a parent.

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
        kernel_thread = not os.readlink(f"/proc/{pid}/exe")
    except OSError:
        kernel_thread = True
    if kernel_thread:
        raise DriverError(Reason.REQUEST_INVALID, f"process {pid} has no program: a kernel thread, or not ours")
    if os.getpid() in proc.tree(pid):
        raise DriverError(
            Reason.REQUEST_INVALID, f"process {pid} is this driver or a parent of it", "name the replica's process"
        )
