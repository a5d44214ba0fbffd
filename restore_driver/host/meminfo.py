"""Read this machine's available memory."""

from __future__ import annotations

from pathlib import Path


def available_memory_bytes() -> int:
    """Return MemAvailable of /proc/meminfo in bytes; 0 where it is missing."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
