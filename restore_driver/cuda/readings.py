"""What the cards' memory was at one moment; NVML and nvidia-smi both answer in these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from restore_driver.errors import DriverError, Reason


@dataclass(frozen=True)
class CardMemory:
    """One GPU's memory."""

    uuid: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class MemoryReading:
    """All cards, and the processes that hold memory on any; None where the amount is not told."""

    cards: tuple[CardMemory, ...]
    processes: Mapping[int, int | None]

    def device_memory(self, uuid: str) -> tuple[int, int]:
        """Free and total bytes of one card.

        Raises:
            DriverError: CUDA_MISSING when there is no such card here.
        """
        for card in self.cards:
            if card.uuid == uuid:
                return card.free_bytes, card.total_bytes
        raise DriverError(Reason.CUDA_MISSING, f"this machine has no GPU {uuid}", "see `nvidia-smi -L`")

    def process_memory_bytes(self, pids: Iterable[int]) -> int:
        """What these processes hold, as far as it is told."""
        return sum(self.processes.get(pid) or 0 for pid in pids)
