"""Reserve space for an artifact before a byte is fetched: on a disk, or in a tmpfs of huge pages."""

from __future__ import annotations

from pathlib import Path

from restore_driver.capacity import require_free_disk, require_free_memory
from restore_driver.errors import DriverError, Reason
from restore_driver.host.hugepages import is_huge_tmpfs, mount_huge_tmpfs
from restore_driver.host.mounts import mount_points

_HUGE_PAGE_BYTES = 2 << 20
_SPARE_PAGES = 16
"""For the chunk record, the manifest and the seal, each of which takes a huge page of its own."""


def require_disk(directory: Path, needed_bytes: int) -> None:
    """Refuse a directory whose file system has less than that free.

    Raises:
        DriverError: DISK_FULL with both numbers.
    """
    require_free_disk(
        directory, needed_bytes, "the artifact needs", "free some space (forethaw prune), or stage elsewhere"
    )


def make_memory(parent: Path, sizes_bytes: list[int], available_bytes: int) -> None:
    """Mount a tmpfs of huge pages that is large enough for such files, if there is none yet.

    Raises:
        DriverError: TOO_LITTLE_MEMORY with both numbers; REQUEST_INVALID when something is there that it would hide.
    """
    if is_huge_tmpfs(parent):
        return
    if parent.absolute() in mount_points() or (parent.is_dir() and any(parent.iterdir())):
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"{parent} is not a tmpfs of huge pages, and is not empty",
            "give a directory in a new parent, such as /run/forethaw/staged/NAME",
        )
    needed = huge_bytes(sizes_bytes)
    require_free_memory(available_bytes, needed, "in memory the artifact needs", "stage it on a disk")
    mount_huge_tmpfs(parent, needed)


def huge_bytes(sizes_bytes: list[int]) -> int:
    """Return what files take on a tmpfs of huge pages: whole pages each."""
    pages = sum(max(1, -(-size // _HUGE_PAGE_BYTES)) for size in sizes_bytes)
    return (pages + _SPARE_PAGES) * _HUGE_PAGE_BYTES
