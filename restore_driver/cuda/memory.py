"""What is free on the cards, and the proof that a parked process holds none of it.

The driver's word that a process is checkpointed is one thing; a controller that puts a second replica on the card
needs more. `MemoryProof` asks three witnesses:

1. the kernel: no process of the tree has a device file of NVIDIA's open any more. A context lives by those files,
   and the driver frees all that hangs on them when they are closed. This must hold always.
2. the list of processes on the card: it named ours before and names none of them now.
3. the card: in a container the list may be empty, or hold other PIDs than ours. Then the card's free memory must
   have grown by at least what the smallest context takes.

Not shown: memory that the process had exported and another process still maps belongs to that one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from restore_driver.cuda.readings import MemoryReading
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason

LEAST_CONTEXT_BYTES = 32 << 20
"""Contexts measured: 0.3 to 0.5 GB on an H200; no card's is under 100 MB."""

SETTLE_S = 1.0
"""How long a witness may lag behind: lists of processes are refreshed a little after the files are closed."""


Read = Callable[[float], MemoryReading]
"""Takes a reading within the seconds given: `CudaProcesses.memory`, or `smi.read_memory`."""


@dataclass(frozen=True)
class MemoryProof:
    """A reading before, kept for the comparison after."""

    pids: tuple[int, ...]
    reading: MemoryReading
    """While the processes still held their memory."""
    read: Read

    def after(self, deadline_s: float) -> dict[str, Any]:
        """What proves that the processes hold no device memory; the witness and bytes, for the result.

        Raises:
            DriverError: CUDA_FAILED naming what they still hold.
        """
        deadline = Deadline.after("the proof that device memory is free", deadline_s)
        settled_s = time.monotonic() + min(SETTLE_S, deadline_s / 2.0)
        while True:
            now = self.read(deadline.left_s())
            doubt = self._doubt(now)
            if doubt is None:
                return self._facts(now)
            if time.monotonic() >= settled_s:
                raise DriverError(Reason.CUDA_FAILED, doubt, "unpark or end the replica; its card is not free")
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
            return f"processes {list(self.pids)} were listed on no card, and free memory grew by {grown_bytes:,} bytes"
        return None

    def _facts(self, now: MemoryReading) -> dict[str, Any]:
        return {
            "witness": "process-list" if self._was_listed() else "card",
            "held_before_bytes": self.reading.process_memory_bytes(self.pids),
            "freed_bytes": sum(self._grown(now).values()),
            "cards": [uuid for uuid, grown_bytes in self._grown(now).items() if grown_bytes],
            "free_bytes": {card.uuid: card.free_bytes for card in now.cards},
        }

    def _was_listed(self) -> bool:
        return any(self.reading.processes.get(pid, 0) != 0 for pid in self.pids)

    def _grown(self, now: MemoryReading) -> dict[str, int]:
        before = {card.uuid: card.free_bytes for card in self.reading.cards}
        return {card.uuid: max(0, card.free_bytes - before.get(card.uuid, card.free_bytes)) for card in now.cards}


def open_device_files(pid: int) -> tuple[str, ...]:
    """NVIDIA's device files that a process has open; a process that is gone has none."""
    found = set()
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            try:
                found.add(os.readlink(fd.path))
            except FileNotFoundError:
                continue  # closed while we looked
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(sorted(path for path in found if path.startswith("/dev/nvidia")))
