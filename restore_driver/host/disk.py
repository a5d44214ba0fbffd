"""Writing so that it stays, and how much may still be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from restore_driver.errors import DriverError, Reason


def sync(path: Path) -> None:
    """fsync(2) of a file or a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, content: bytes) -> None:
    """All of it, though write(2) may take less at once."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def is_full(error: OSError) -> bool:
    """Whether there was no room: on the file system, or in a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def free_bytes(path: Path) -> int:
    """What may still be written to the file system of a path."""
    about = os.statvfs(path)
    return about.f_bavail * about.f_frsize


def require_free(directory: Path, needed_bytes: int, what: str, hint: str = "free some space") -> None:
    """Refuses when the file system of a directory has less than that free.

    Raises:
        DriverError: DISK_FULL with both numbers; `what` says what needs it.
    """
    free = free_bytes(directory)
    if free < needed_bytes:
        raise DriverError(Reason.DISK_FULL, f"{directory} has {free:,} bytes free, {what} {needed_bytes:,}", hint)
