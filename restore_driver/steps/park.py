"""Park and unpark, without CRIU: the CUDA state waits in the process's own host memory."""

from __future__ import annotations

from restore_driver.attempt.context import Attempt, ParkContext, UnparkContext
from restore_driver.attempt.parked_records import ParkedRecord, forget_record, read_record, write_record
from restore_driver.attempt.walk import Details, Step
from restore_driver.capacity import require_free_gpu_memory
from restore_driver.cuda import CudaState, MemoryProof
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.hugepages import transparent_huge_pages
from restore_driver.steps.quiesce import QuiesceSteps, replica_key
from restore_driver.steps.resume import ResumeSteps
from restore_driver.toolset import Toolset
from restore_driver.wire.phase import Phase
from restore_driver.wire.requests import ParkRequest, UnparkRequest


class ParkSteps(QuiesceSteps):
    """Steps of `park`, for one attempt."""

    context: ParkContext

    def __init__(self, tools: Toolset, request: ParkRequest) -> None:
        super().__init__(tools, request.pid, request.replica, request.holder, ParkContext())
        self.huge_pages = request.huge_pages

    def steps(self) -> dict[Phase, Step]:
        """Return the step of every phase of the sequence."""
        return super().steps() | {Phase.MEMORY_FREE: self.memory_free}

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Refuse, besides, a machine without a GPU to free."""
        details = super().gate(attempt, deadline)
        if self.tools.cuda is None or self.context.memory is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing, "park is for replicas on a GPU")
        self.context.memory_proof = MemoryProof(self.context.pids, self.context.memory, self.tools.cuda.memory)
        return details

    def cuda_checkpoint(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Checkpoint into huge pages if the request says so: this copy and the one back are faster on them."""
        if not self.huge_pages:
            return super().cuda_checkpoint(attempt, deadline)
        with transparent_huge_pages("always", self.tools.state.huge_pages) as huge:
            return {**super().cuda_checkpoint(attempt, deadline), "huge_pages": huge}

    def memory_free(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Prove that the replica's GPU memory is free, then write the record that `unpark` reads."""
        free = self.context.memory_proof.after(deadline.left_s())
        record = ParkedRecord(
            pid=self.pid,
            start_ticks=attempt.facts["start_ticks"],
            replica=self.replica,
            proof=self.context.proof,
            cuda_pids=tuple(attempt.facts["cuda_pids"]),
            device_bytes=self.context.device_bytes,
            gpus=tuple(free["gpus"]),
        )
        write_record(self.tools.state, record)
        attempt.answer["host_pid"] = self.pid
        return dict(free)


class UnparkSteps(ResumeSteps):
    """Steps of `unpark`, for one attempt."""

    context: UnparkContext

    def __init__(self, tools: Toolset, request: UnparkRequest) -> None:
        super().__init__(tools, request.holder, UnparkContext())
        self.pid = request.pid

    def steps(self) -> dict[Phase, Step]:
        """Return the step of every phase of the sequence."""
        return super().steps() | {Phase.GATE: self.gate, Phase.LOCK: self.lock}

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Refuse a process that is not parked, is on a GPU, has died, or would not fit."""
        record = read_record(self.tools.state, self.pid)
        if not proc.is_same(self.pid, record.start_ticks):
            forget_record(self.tools.state, self.pid)
            raise DriverError(Reason.REPLICA_LOST, f"parked process {self.pid} has died", "restore its snapshot")
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing)
        pids = [pid for pid in record.cuda_pids if proc.is_alive(pid)]  # a worker may end while it is parked
        running = [pid for pid in pids if self.tools.cuda.state(pid, deadline.left_s()) is CudaState.RUNNING]
        if running:
            raise DriverError(
                Reason.REQUEST_INVALID,
                f"process {running[0]} is on its GPU: it was woken by another program",
                "park it again",
            )
        require_free_gpu_memory(self.tools.cuda, record.gpus, record.device_bytes, deadline)
        attempt.key = replica_key(self.pid)
        self._take_over(record, tuple(pids))
        return {}

    def lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Take the replica's lock: one attempt at a time."""
        attempt.open_journal(self.tools.state.attempts)
        attempt.intend(pid=self.pid, start_ticks=self.context.record.start_ticks)
        return {"key": attempt.key}

    def prove(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Prove the replica, then remove its record: it is parked no longer."""
        details = super().prove(attempt, deadline)
        forget_record(self.tools.state, self.pid)
        return details

    def _take_over(self, record: ParkedRecord, cuda_pids: tuple[int, ...]) -> None:
        context = self.context
        context.record, context.replica, context.proof = record, record.replica, record.proof
        context.gpus, context.device_map = record.gpus, None
        context.host_pid, context.cuda_host_pids = self.pid, cuda_pids
