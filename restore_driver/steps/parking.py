"""Live -> parked -> live, without CRIU: the CUDA state waits in the process's own host memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from restore_driver.cuda import MemoryProof
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.journal import Journal
from restore_driver.phases import Phase
from restore_driver.replica_spec import ReplicaSpec
from restore_driver.requests import ParkRequest, UnparkRequest
from restore_driver.sequence import Attempt, Step
from restore_driver.steps.freezing import Details, Freezing
from restore_driver.steps.waking import Waking, take_up
from restore_driver.tools import State, Tools


class Parking(Freezing):
    """Steps of `park`."""

    def __init__(self, tools: Tools, request: ParkRequest) -> None:
        super().__init__(tools, request.pid, request.replica, "park", request.holder)

    def steps(self) -> dict[Phase, Step]:
        """Every phase of the table."""
        return super().steps() | {Phase.MEMORY_FREE: self.memory_free}

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Besides: there is a GPU to free, and the replica is not parked already."""
        details = super().gate(attempt, deadline)
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing, "park is for replicas on a GPU")
        if record_path(self.tools.state, self.pid).exists():
            raise DriverError(Reason.REQUEST_INVALID, f"process {self.pid} is parked", "unpark it")
        attempt.live["memory"] = MemoryProof.before(attempt.live["pids"], deadline.left_s(), self.tools.cuda.memory)
        return details

    def memory_free(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The proof that its device memory is free; then the record that `unpark` will read."""
        free = attempt.live["memory"].after(deadline.left_s())
        record = {
            "pid": self.pid,
            "start_ticks": attempt.facts["start_ticks"],
            "replica": attempt.facts["replica"],
            "proof": attempt.facts["proof"],
            "cuda_pids": attempt.facts["cuda_pids"],
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
        if not proc.is_alive(self.pid) or proc.start_ticks(self.pid) != record["start_ticks"]:
            forget_record(self.tools.state, self.pid)
            raise DriverError(Reason.REPLICA_LOST, f"parked process {self.pid} has died", "restore its snapshot")
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing)
        attempt.key = f"{self.pid}-{record['start_ticks']}"
        attempt.live.update(record=record, host_pid=self.pid, cuda_host_pids=record["cuda_pids"])
        attempt.live["gpus"] = tuple(gpu.uuid for gpu in self.tools.gpus)
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


def record_path(state: State, pid: int) -> Path:
    """Where a parked replica's record lies."""
    return state.parked / f"{pid}.json"


def write_record(state: State, pid: int, record: dict[str, Any]) -> None:
    """One rename, so that a record is whole or not there."""
    path = record_path(state, pid)
    path.with_suffix(".new").write_text(json.dumps(record))
    os.replace(path.with_suffix(".new"), path)


def read_record(state: State, pid: int) -> dict[str, Any]:
    """The record of a parked replica.

    Raises:
        DriverError: REQUEST_INVALID when the process is not parked.
    """
    try:
        record: dict[str, Any] = json.loads(record_path(state, pid).read_text())
    except FileNotFoundError:
        raise DriverError(Reason.REQUEST_INVALID, f"process {pid} is not parked", "park it first") from None
    return record


def forget_record(state: State, pid: int) -> None:
    """The replica is awake, or dead."""
    record_path(state, pid).unlink(missing_ok=True)
