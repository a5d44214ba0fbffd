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
"""A state is a message to the process and back, milliseconds; a process that is stopped never answers."""


class NotCuda(DriverError):
    """The driver knows no CUDA state of this process: it uses no CUDA, or does not exist."""


class CudaProcesses(Protocol):
    """Moves the device memory of processes to the host and back.

    The four actions return the seconds that the driver itself took. All methods raise DriverError: CUDA_FAILED
    (`NotCuda` where that is why), CUDA_MISSING, DEADLINE_EXCEEDED.
    """

    def state(self, pid: int, deadline_s: float = STATE_DEADLINE_S) -> CudaState:
        """What the driver says of a process."""
        ...

    def lock(self, pid: int, timeout_s: float) -> float:
        """Lets running GPU work end and holds new calls back; on a miss the process runs on."""
        ...

    def checkpoint(self, pid: int, deadline_s: float) -> float:
        """Moves a locked process's device memory into its host memory."""
        ...

    def restore(self, pid: int, device_map: DeviceMap | None, deadline_s: float) -> float:
        """Moves it back, to other GPUs if a map says so; the process is locked after."""
        ...

    def unlock(self, pid: int, deadline_s: float) -> float:
        """Lets a locked process go on."""
        ...

    def memory(self, deadline_s: float) -> MemoryReading:
        """Free memory of every card, and who holds how much."""
        ...

    def close(self) -> None:
        """Ends what is resident; no process's state changes."""
        ...
