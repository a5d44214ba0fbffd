"""Memory of all GPUs and their processes at one moment; NVML and nvidia-smi both return it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuMemory:
    """One GPU's memory."""

    uuid: str
    """As `nvidia-smi -L` writes it."""
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class MemoryReading:
    """All GPUs, and the processes that hold memory on any."""

    gpus: tuple[GpuMemory, ...]
    processes: Mapping[int, int | None]
    """PID -> bytes on all GPUs together; None where the driver does not report the amount."""

    def process_memory_bytes(self, pids: Iterable[int]) -> int:
        """Return the bytes that these processes hold, as far as they are reported."""
        return sum(self.processes.get(pid) or 0 for pid in pids)
