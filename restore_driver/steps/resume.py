"""In host memory -> proven: what a restore and an unpark end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from restore_driver.attempt.walk import Attempt, Step
from restore_driver.cuda import tree_restore
from restore_driver.deadline import Deadline
from restore_driver.engines import Target
from restore_driver.errors import DriverError, Reason
from restore_driver.proof import prove as proof
from restore_driver.proof.prove import ProofRecord
from restore_driver.steps.quiesce import Details
from restore_driver.steps.weights import begin_loading, wake
from restore_driver.tools import Tools
from restore_driver.wire.phase import Phase
from restore_driver.wire.replica_spec import ReplicaSpec


class Waking:
    """Steps shared by `restore` and `unpark`; they find the replica's spec, record and PIDs in the attempt."""

    def __init__(self, tools: Tools, holder: Path | None) -> None:
        self.tools, self.holder = tools, holder

    def steps(self) -> dict[Phase, Step]:
        """Every phase of this module."""
        return {
            Phase.WEIGHTS: self.load_weights,
            Phase.CUDA_RESTORE: self.restore_cuda,
            Phase.RESUME: self.resume,
            Phase.PROVE: self.prove,
        }

    def load_weights(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Tells the holder to begin; the copy to the card runs beside the phases that follow."""
        loading = begin_loading(attempt.live["replica"], self.holder, deadline, attempt.live["gpus"])
        attempt.stack.callback(loading.close)
        attempt.live["loading"] = loading
        if loading.leases:
            attempt.intend(holder=str(loading.holder), leases=dict(loading.leases))
        return {"models": len(loading.leases)}

    def restore_cuda(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Device memory back on the card, to the GPUs that this placeholder has; then everything is unlocked."""
        pids = attempt.live["cuda_host_pids"]
        if not pids:
            return {"cuda_processes": 0}
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing)
        device_map = attempt.live.get("device_map")
        attempt.intend(cuda_touched=True)
        took_s = tree_restore(self.tools.cuda, pids, device_map, deadline_s=deadline.left_s(), parallel=True)
        return {"cuda_processes": len(pids), "driver_s": max(took_s.values())}

    def resume(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The engine takes its weights and makes its KV anew."""
        loading = attempt.live["loading"]
        return wake(attempt.live["replica"], target_of(attempt), loading, deadline, note=lambda f: attempt.intend(**f))

    def prove(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The weights' digest and a known request; Ready may be said after this and not before."""
        proven = proof.prove(attempt.live["replica"], target_of(attempt), attempt.live["proof"], deadline.left_s())
        attempt.answer["host_pid"] = attempt.live["host_pid"]
        return proven.model_dump(mode="json")


def target_of(attempt: Attempt) -> Target:
    """Where the woken replica's sockets and files are reached."""
    pid = attempt.live["host_pid"]
    return Target(pid, Path(f"/proc/{pid}/root"))


def take_up(attempt: Attempt, replica: ReplicaSpec, record: dict[str, Any] | ProofRecord) -> None:
    """Hands the steps of this module what they need."""
    attempt.live["replica"] = replica
    attempt.live["proof"] = record if isinstance(record, ProofRecord) else ProofRecord.model_validate(record)
