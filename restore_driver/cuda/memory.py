"""Prove that a parked process holds no GPU memory.

The driver's report that a process is checkpointed is not enough for a controller that starts a second replica on the
GPU. `MemoryProof` checks three independent sources:

1. the kernel: no process of the tree has one of NVIDIA's device files open any more. A context lives by those files,
   and the driver frees all that belongs to them when they are closed. This must hold always.
2. the GPU's process list: it named the processes before and names none of them now.
3. the GPU's free memory: in a container the list may be empty, or hold other PIDs. Then the free memory must have grown
   by at least what the smallest context takes.

Not shown: memory that the process had exported and that another process still maps belongs to that one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restore_driver.cuda.readings import MemoryReading
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason

LEAST_CONTEXT_BYTES = 32 << 20
"""Contexts measured: 0.3 to 0.5 GB on an H200; no GPU's is under 100 MB."""

SETTLE_S = 1.0
"""How long a source may lag behind: process lists are refreshed a little after the files are closed."""


Read = Callable[[float], MemoryReading]
"""Takes a reading within a deadline in seconds: `CudaProcesses.memory`, or `smi.read_memory`."""


@dataclass(frozen=True)
class MemoryProof:
    """A reading from before the checkpoint, kept for the comparison after it."""

    pids: tuple[int, ...]
    reading: MemoryReading
    """While the processes still held their memory."""
    read: Read

    def after(self, deadline_s: float) -> dict[str, Any]:
        """Return the proof that the processes hold no GPU memory: its source (`witness`), GPUs by UUID, and bytes.

        Raises:
            DriverError: CUDA_FAILED naming what they still hold; DEADLINE_EXCEEDED.
        """
        deadline = Deadline.after("the proof that device memory is free", deadline_s)
        settled_s = time.monotonic() + min(SETTLE_S, deadline_s / 2.0)
        while True:
            now = self.read(deadline.left_s())
            doubt = self._doubt(now)
            if doubt is None:
                return self._facts(now)
            if time.monotonic() >= settled_s:
                raise DriverError(Reason.CUDA_FAILED, doubt, "unpark or end the replica; its GPU is not free")
            time.sleep(0.02)

    def _doubt(self, now: MemoryReading) -> str | None:
        for pid in self.pids:
            held = open_device_files(pid)
            if held:
                return f"process {pid} still holds {held[0]} open"
            if pid in now.processes and now.processes[pid] != 0:
                amount = now.processes[pid]
                return f"process {pid} still holds {'an unknown number of' if amount is None else f'{amount:,}'} bytes"
        grown_bytes = sum(self._grown(now).values())
        if not self._was_listed() and grown_bytes < LEAST_CONTEXT_BYTES:
            return f"processes {list(self.pids)} were listed on no GPU, and free memory grew by {grown_bytes:,} bytes"
        return None

    def _facts(self, now: MemoryReading) -> dict[str, Any]:
        return {
            "witness": "process-list" if self._was_listed() else "free-memory",
            "held_before_bytes": self.reading.process_memory_bytes(self.pids),
            "freed_bytes": sum(self._grown(now).values()),
            "gpus": [uuid for uuid, grown_bytes in self._grown(now).items() if grown_bytes],
            "free_bytes": {gpu.uuid: gpu.free_bytes for gpu in now.gpus},
        }

    def _was_listed(self) -> bool:
        return any(self.reading.processes.get(pid, 0) != 0 for pid in self.pids)

    def _grown(self, now: MemoryReading) -> dict[str, int]:
        before = {gpu.uuid: gpu.free_bytes for gpu in self.reading.gpus}
        return {gpu.uuid: max(0, gpu.free_bytes - before.get(gpu.uuid, gpu.free_bytes)) for gpu in now.gpus}


def open_device_files(pid: int) -> tuple[str, ...]:
    """Return NVIDIA's device files that a process has open, sorted; none for a process that does not exist."""
    found = set()
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            try:
                found.add(str(Path(fd.path).readlink()))
            except FileNotFoundError:
                continue  # closed while we looked
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(sorted(path for path in found if path.startswith("/dev/nvidia")))
