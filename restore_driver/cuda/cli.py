"""The fallback: NVIDIA's cuda-checkpoint program, one process a call, each paying its own cuInit.

For machines where cuda-bindings is not installed. It ends with 0, or prints one line `Could not ...: "reason"` or
`Error initializing CUDA: "reason"`, with the driver's text of the code.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from restore_driver.cuda import smi
from restore_driver.cuda.gpu_map import DeviceMap, uuid_to_bytes
from restore_driver.cuda.ports import STATE_DEADLINE_S, NotCuda
from restore_driver.cuda.readings import MemoryReading
from restore_driver.cuda.states import CudaAction, CudaState, Order, carry_out
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc, process

_LOCK_SHARE = 0.9
"""Share of a lock's deadline that the program is given: it should give up before it is killed."""

_NOT_CUDA = ("invalid argument", "initialization error", "named symbol not found")
_NOT_READY = "device not ready"


@dataclass(frozen=True)
class Cli:
    """`CudaProcesses` through the program."""

    program: str = "cuda-checkpoint"
    smi_program: str = "nvidia-smi"

    def state(self, pid: int, deadline_s: float = STATE_DEADLINE_S) -> CudaState:
        """Return the CUDA state of a process."""
        return _Call(self.program, Deadline.after(f"cuda-checkpoint of process {pid}", deadline_s)).state(pid)

    def lock(self, pid: int, timeout_s: float) -> float:
        """Lock: running -> locked. Returns the seconds in the driver."""
        return self._act(Order(CudaAction.LOCK, pid, timeout_s=timeout_s * _LOCK_SHARE), timeout_s)

    def checkpoint(self, pid: int, deadline_s: float) -> float:
        """Checkpoint: locked -> checkpointed. Returns the seconds in the driver."""
        return self._act(Order(CudaAction.CHECKPOINT, pid), deadline_s)

    def restore(self, pid: int, device_map: DeviceMap | None, deadline_s: float) -> float:
        """Restore: checkpointed -> locked. Returns the seconds in the driver."""
        return self._act(Order(CudaAction.RESTORE, pid, device_map=device_map), deadline_s)

    def unlock(self, pid: int, deadline_s: float) -> float:
        """Unlock: locked -> running. Returns the seconds in the driver."""
        return self._act(Order(CudaAction.UNLOCK, pid), deadline_s)

    def memory(self, deadline_s: float) -> MemoryReading:
        """Return the memory of GPUs and processes by nvidia-smi."""
        return smi.read_memory(deadline_s, self.smi_program)

    def close(self) -> None:
        """Do nothing: no process is resident."""

    def _act(self, order: Order, deadline_s: float) -> float:
        began_s = time.monotonic()
        what = f"cuda-checkpoint --action {order.action.value} of process {order.pid}"
        carry_out(_Call(self.program, Deadline.after(what, deadline_s)), order)
        return time.monotonic() - began_s


@dataclass(frozen=True)
class _Call:
    """Runs of the program under one deadline, reads of the state before and after included."""

    program: str
    deadline: Deadline

    def state(self, pid: int) -> CudaState:
        try:
            words = self._run("--get-state", "--pid", str(pid)).split()
        except DriverError as error:
            if isinstance(error, NotCuda) or error.reason is not Reason.CUDA_FAILED or proc.is_alive(pid):
                raise
            raise NotCuda(Reason.CUDA_FAILED, error.detail, "name a process that uses CUDA") from error
        if len(words) != 1 or words[0] not in list(CudaState):
            raise DriverError(Reason.CUDA_FAILED, f"{self.program}: process {pid} is {' '.join(words)!r}")
        return CudaState(words[0])

    def act(self, order: Order) -> None:
        arguments = ["--action", order.action.value, "--pid", str(order.pid)]
        if order.timeout_s is not None:
            arguments += ["--timeout", str(max(1, int(1000 * order.timeout_s)))]
        if order.device_map is not None:
            for uuid in (*order.device_map, *order.device_map.values()):
                uuid_to_bytes(uuid)
            arguments += ["--device-map", ",".join(f"{old}={new}" for old, new in order.device_map.items())]
        self._run(*arguments)

    def _run(self, *arguments: str) -> str:
        try:
            ended = process.run((self.program, *arguments), deadline_s=self.deadline.left_s())
        except DriverError as error:
            if error.reason is Reason.REQUEST_INVALID:
                raise DriverError(
                    Reason.CUDA_MISSING, f"{self.program} does not exist", "install cuda-checkpoint or cuda-bindings"
                ) from error
            raise
        if ended.exit_code != 0:
            raise read_failure(" ".join((self.program, *arguments)), ended.exit_code, ended.output)
        return ended.output


def read_failure(command: str, exit_code: int, output: str) -> DriverError:
    """Return the error that the program's exit code and output stand for."""
    printed = output.strip() or f"it ended with {exit_code} and printed nothing"
    quoted = re.findall(r'"([^"]*)"', printed)
    text = quoted[-1] if quoted else printed
    if "Error initializing CUDA" in printed:
        return DriverError(Reason.CUDA_MISSING, f"{command}: {printed}", "see `nvidia-smi` on this machine")
    if "--get-state" in command and text in _NOT_CUDA:
        return NotCuda(Reason.CUDA_FAILED, f"{command}: {printed}", "name a process that uses CUDA")
    if "--action lock" in command and text == _NOT_READY:
        return DriverError(Reason.DEADLINE_EXCEEDED, f"{command}: {printed}", "quiesce the engine first")
    return DriverError(Reason.CUDA_FAILED, f"{command}: {printed}")
