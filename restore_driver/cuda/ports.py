"""The port of CUDA processes: what the rest of the driver may request of them.

Two adapters implement it: `HelperClient` (a resident process with the driver's API) and `Cli` (the cuda-checkpoint
program); `open_cuda` chooses. PIDs are those of the host's pid namespace.
"""

from __future__ import annotations

from typing import Protocol

from restore_driver.cuda.gpu_map import DeviceMap
from restore_driver.cuda.readings import MemoryReading
from restore_driver.cuda.states import CudaState
from restore_driver.errors import DriverError

STATE_DEADLINE_S = 5.0
"""Reading a state is a message to the process and back, milliseconds; a stopped process never answers."""


class NotCuda(DriverError):  # noqa: N818 - an answer that a search expects, not a failure
    """The driver knows no CUDA state of this process: it uses no CUDA, or does not exist."""


class CudaProcesses(Protocol):
    """Moves the device memory of processes to the host and back.

    The four actions return the seconds that the driver itself took. All methods raise DriverError: CUDA_FAILED
    (`NotCuda` where that is why), CUDA_MISSING, DEADLINE_EXCEEDED.
    """

    def state(self, pid: int, deadline_s: float = STATE_DEADLINE_S) -> CudaState:
        """Return the CUDA state of a process."""
        ...

    def lock(self, pid: int, timeout_s: float) -> float:
        """Let running GPU work end and block new calls; when `timeout_s` seconds pass, the process keeps running."""
        ...

    def checkpoint(self, pid: int, deadline_s: float) -> float:
        """Move a locked process's device memory into its host memory."""
        ...

    def restore(self, pid: int, device_map: DeviceMap | None, deadline_s: float) -> float:
        """Move it back, to other GPUs by `device_map`; the process is locked afterwards."""
        ...

    def unlock(self, pid: int, deadline_s: float) -> float:
        """Let a locked process run."""
        ...

    def memory(self, deadline_s: float) -> MemoryReading:
        """Return the free memory of every GPU, and the bytes that each process holds."""
        ...

    def close(self) -> None:
        """End the resident helper, if any; no process's state changes."""
        ...
