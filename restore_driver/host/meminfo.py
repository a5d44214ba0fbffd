"""How much memory this machine has left."""

from __future__ import annotations

from pathlib import Path


def available_memory_bytes() -> int:
    """MemAvailable of this machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
