"""Durable writes, and the free space of a file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Call fsync(2) on a file or a directory.

    Raises:
        OSError: it cannot be opened, or any error of fsync(2).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, content: bytes) -> None:
    """Write all of the content, though write(2) may take less at once.

    Raises:
        OSError: any error of write(2), such as ENOSPC; a part may be written then.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def is_full(error: OSError) -> bool:
    """Return True for ENOSPC and EDQUOT: the file system is full, or a quota is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def free_bytes(path: Path) -> int:
    """Return the bytes that may still be written to the file system of a path.

    Raises:
        OSError: the path does not exist.
    """
    about = os.statvfs(path)
    return about.f_bavail * about.f_frsize
