"""In host memory -> proven: what a restore and an unpark end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from restore_driver import engines, proof
from restore_driver.cuda import tree_restore
from restore_driver.deadline import Deadline
from restore_driver.engines import Target
from restore_driver.errors import DriverError, Reason
from restore_driver.phases import Phase
from restore_driver.proof import ProofRecord
from restore_driver.replica_spec import ReplicaSpec
from restore_driver.sequence import Attempt, Step
from restore_driver.steps.freezing import Details
from restore_driver.tools import Tools
from restore_driver.weights.client import HolderClient


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
        models = _models(attempt.live["replica"])
        if not models:
            return {"models": 0}
        if self.holder is None:
            raise DriverError(
                Reason.WEIGHTS_FAILED, f"the replica takes {models[0]} from a weights holder", "name its socket"
            )
        client = HolderClient(self.holder)
        attempt.stack.callback(client.close)
        attempt.live["holder"] = client
        leases: dict[str, str] = {}
        attempt.live["leases"] = leases
        for model in models:
            leases[model] = client.load(model, deadline.left_s())
            attempt.intend(holder=str(self.holder), leases=dict(leases))
        return {"models": len(models)}

    def restore_cuda(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Device memory back on the card, to the GPUs that this placeholder has; then everything is unlocked."""
        pids = attempt.live["cuda_host_pids"]
        if not pids:
            return {"cuda_processes": 0}
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing)
        device_map = attempt.live.get("device_map")
        took_s = tree_restore(self.tools.cuda, pids, device_map, deadline_s=deadline.left_s(), parallel=True)
        return {"cuda_processes": len(pids), "driver_s": max(took_s.values())}

    def resume(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The engine takes its weights and makes its KV anew."""
        details = engines.resume(
            attempt.live["replica"].engine,
            target_of(attempt),
            deadline.left_s(),
            engines.Waking(attempt.live.get("leases", {})),
        )
        for token in attempt.live.get("leases", {}).values():
            attempt.live["holder"].release(token, deadline.left_s())  # what was mapped stays the replica's
        return details

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


def _models(replica: ReplicaSpec) -> tuple[str, ...]:
    return tuple(getattr(replica.engine, "models", ()))
