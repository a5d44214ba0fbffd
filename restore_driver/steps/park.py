"""Live -> parked -> live, without CRIU: the CUDA state waits in the process's own host memory."""

from __future__ import annotations

from restore_driver.attempt.journal import Journal
from restore_driver.attempt.walk import Attempt, Step
from restore_driver.cuda import CudaState, MemoryProof
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.hugepages import transparent_huge_pages
from restore_driver.steps.gpu_memory_gate import refuse_full_cards
from restore_driver.steps.quiesce import Details, Freezing, replica_key
from restore_driver.steps.records import forget_record, read_record, write_record
from restore_driver.steps.resume import Waking, take_up
from restore_driver.tools import Tools
from restore_driver.wire.phase import Phase
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import ParkRequest, UnparkRequest


class Parking(Freezing):
    """Steps of `park`."""

    def __init__(self, tools: Tools, request: ParkRequest) -> None:
        super().__init__(tools, request.pid, request.replica, "park", request.holder)
        self.huge_pages = request.huge_pages

    def steps(self) -> dict[Phase, Step]:
        """Every phase of the table."""
        return super().steps() | {Phase.MEMORY_FREE: self.memory_free}

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Besides: there is a GPU to free, and the replica is not parked already."""
        details = super().gate(attempt, deadline)
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing, "park is for replicas on a GPU")
        before = attempt.live["memory"]
        attempt.live["memory_proof"] = MemoryProof(tuple(attempt.live["pids"]), before, self.tools.cuda.memory)
        return details

    def cuda_checkpoint(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Besides, if asked for: on huge pages, which both this copy and the one back go through quicker."""
        if not self.huge_pages:
            return super().cuda_checkpoint(attempt, deadline)
        with transparent_huge_pages("always", self.tools.state.huge_pages) as huge:
            return {**super().cuda_checkpoint(attempt, deadline), "huge_pages": huge}

    def memory_free(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The proof that its device memory is free; then the record that `unpark` will read."""
        free = attempt.live["memory_proof"].after(deadline.left_s())
        record = {
            "pid": self.pid,
            "start_ticks": attempt.facts["start_ticks"],
            "replica": attempt.facts["replica"],
            "proof": attempt.facts["proof"],
            "cuda_pids": attempt.facts["cuda_pids"],
            "device_bytes": attempt.live["device_bytes"],
            "cards": free["cards"],
        }
        write_record(self.tools.state, self.pid, record)
        attempt.answer["host_pid"] = self.pid
        return dict(free)


class Unparking(Waking):
    """Steps of `unpark`."""

    def __init__(self, tools: Tools, request: UnparkRequest) -> None:
        super().__init__(tools, request.holder)
        self.pid = request.pid

    def steps(self) -> dict[Phase, Step]:
        """Every phase of the table."""
        return super().steps() | {Phase.GATE: self.gate, Phase.LOCK: self.lock}

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The process that was parked is the one that is asked for, and it lives."""
        record = read_record(self.tools.state, self.pid)
        if not proc.is_same(self.pid, record["start_ticks"]):
            forget_record(self.tools.state, self.pid)
            raise DriverError(Reason.REPLICA_LOST, f"parked process {self.pid} has died", "restore its snapshot")
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing)
        pids = [pid for pid in record["cuda_pids"] if proc.is_alive(pid)]  # a worker may end while it is parked
        running = [pid for pid in pids if self.tools.cuda.state(pid, deadline.left_s()) is CudaState.RUNNING]
        if running:
            raise DriverError(
                Reason.REQUEST_INVALID, f"process {running[0]} is on its card: somebody else woke it", "park it again"
            )
        refuse_full_cards(self.tools, record["cards"], record["device_bytes"], deadline)
        attempt.key = replica_key(self.pid)
        attempt.live.update(record=record, host_pid=self.pid, cuda_host_pids=pids)
        attempt.live["gpus"] = tuple(record["cards"])
        take_up(attempt, ReplicaSpec.model_validate(record["replica"]), record["proof"])
        return {}

    def lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """One attempt a replica at a time."""
        attempt.journal = Journal.open(self.tools.state.attempts, "unpark", attempt.key)
        attempt.intend(pid=self.pid, start_ticks=attempt.live["record"]["start_ticks"])
        return {"key": attempt.key}

    def prove(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Besides: it is parked no longer."""
        details = super().prove(attempt, deadline)
        forget_record(self.tools.state, self.pid)
        return details
