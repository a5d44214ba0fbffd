"""The last phases of restore and unpark: from CUDA state in host memory to a proven replica."""

from __future__ import annotations

from pathlib import Path

from restore_driver.attempt.context import Attempt, ResumeContext
from restore_driver.attempt.walk import Details, Step
from restore_driver.deadline import Deadline
from restore_driver.engines import ResumeState
from restore_driver.proof import prove as proof
from restore_driver.steps.wake import process_root, restore_cuda, resume_engine
from restore_driver.toolset import Toolset
from restore_driver.weights.loading import begin_loading
from restore_driver.wire.phase import Phase


class ResumeSteps:
    """Steps shared by `restore` and `unpark`, for one attempt."""

    def __init__(self, tools: Toolset, holder: Path | None, context: ResumeContext) -> None:
        self.tools, self.holder = tools, holder
        self.context = context

    def steps(self) -> dict[Phase, Step]:
        """Return the step of every phase of this module."""
        return {
            Phase.WEIGHTS: self.load_weights,
            Phase.CUDA_RESTORE: self.restore_cuda,
            Phase.RESUME: self.resume,
            Phase.PROVE: self.prove,
        }

    def load_weights(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Have the holder begin its copies to the GPU; they run while the next phases proceed."""
        loading = begin_loading(self.context.replica, self.holder, deadline, self.context.gpus)
        attempt.stack.callback(loading.close)
        self.context.loading = loading
        if loading.leases:
            attempt.intend(holder=str(loading.holder), leases=dict(loading.leases))
        return {"models": len(loading.leases)}

    def restore_cuda(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Restore GPU memory onto the GPUs that this placeholder has, and unlock all processes."""
        pids = self.context.cuda_host_pids
        if not pids:
            return {"cuda_processes": 0}
        attempt.intend(cuda_touched=True)
        took_s = restore_cuda(self.tools, pids, self.context.device_map, deadline)
        return {"cuda_processes": len(pids), "driver_s": took_s}

    def resume(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Resume the engine: it maps its weights and allocates its KV anew."""
        loading = self.context.loading
        return resume_engine(
            self.context.replica,
            process_root(self.context.host_pid),
            loading,
            deadline,
            note=lambda facts: attempt.intend(**facts),
            state=ResumeState(leases=loading.leases),
        )

    def prove(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Check the weights' digest and the known requests; the replica is ready after this and not before."""
        root = process_root(self.context.host_pid)
        proven = proof.prove(self.context.replica, root, self.context.proof, deadline.left_s())
        attempt.answer["host_pid"] = self.context.host_pid
        return proven.model_dump(mode="json")
