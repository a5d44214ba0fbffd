"""Durable writes, and the free space of a file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path


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
