"""Digests of many files at once.

BLAKE3, because staging must not be slower than the disk: several GB/s a core with SIMD, where SHA-256 gives half of one
on machines without its instructions; and it is as collision resistant. Its library maps a large file and spreads it
over the cores by itself; small files go side by side.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import open_beneath

_LARGE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20


def digest_file(directory: int, name: str) -> tuple[int, str]:
    """Size and BLAKE3 of a file beneath a directory.

    Raises:
        DriverError: NOT_TRUSTED when the name leads out, or to what is no regular file.
        OSError: as the kernel says.
    """
    fd = open_regular(directory, name)
    try:
        size = os.fstat(fd).st_size
        if size >= _LARGE_BYTES:
            hasher = blake3(max_threads=blake3.AUTO)
            hasher.update_mmap(Path(f"/proc/self/fd/{fd}"))
            return size, hasher.hexdigest()
        hasher = blake3()
        while chunk := os.read(fd, _CHUNK_BYTES):
            hasher.update(chunk)
        return size, hasher.hexdigest()
    finally:
        os.close(fd)


def digest_files(directory: int, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Size and BLAKE3 of each file."""
    wanted = list(names)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(wanted, pool.map(lambda name: digest_file(directory, name), wanted), strict=True))


def open_regular(directory: int, name: str) -> int:
    """Opens a file beneath a directory for reading; a FIFO in its place is refused and not waited on.

    Raises:
        DriverError: NOT_TRUSTED when the name leads out, or to what is no regular file.
        OSError: as the kernel says.
    """
    fd = open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DriverError(Reason.NOT_TRUSTED, f"{name} is no regular file", "make it anew")
    return fd


def list_files(directory: Path) -> tuple[str, ...]:
    """Paths of all files below a directory, sorted; links and special files are listed as they are, not followed."""
    found = []
    for where, directories, names in os.walk(directory):
        links = [name for name in directories if Path(where, name).is_symlink()]
        found += [Path(where, name).relative_to(directory).as_posix() for name in (*names, *links)]
    return tuple(sorted(found))
