"""Compute BLAKE3 digests of many files in parallel.

BLAKE3, because staging must not be slower than the disk: several GB/s a core with SIMD, where SHA-256 reaches half a
GB/s on machines without its instructions; and it is as collision resistant. Its library maps a large file and spreads
it over the cores; small files are digested in parallel.
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
    """Return the size in bytes and the BLAKE3 digest (64 hex digits) of a file beneath a directory descriptor.

    Raises:
        DriverError: NOT_TRUSTED if the name leads out of the directory, or not to a regular file.
        OSError: the file cannot be opened or read.
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
    """Return the size in bytes and the BLAKE3 digest of each file beneath a directory descriptor, by name.

    Raises:
        DriverError: NOT_TRUSTED, as `digest_file`.
        OSError: as `digest_file`; the first of the names' order.
    """
    wanted = list(names)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(wanted, pool.map(lambda name: digest_file(directory, name), wanted), strict=True))


def open_regular(directory: int, name: str) -> int:
    """Open a file beneath a directory descriptor for reading; a FIFO in its place is refused without waiting.

    Raises:
        DriverError: NOT_TRUSTED if the name leads out of the directory, or not to a regular file.
        OSError: the file cannot be opened.
    """
    fd = open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DriverError(Reason.NOT_TRUSTED, f"{name} is not a regular file", "make the snapshot again")
    return fd


def list_files(directory: Path) -> tuple[str, ...]:
    """Return the relative paths of all files below a directory, sorted; links are listed and not followed."""
    found = []
    for where, directories, names in os.walk(directory):
        links = [name for name in directories if Path(where, name).is_symlink()]
        found += [Path(where, name).relative_to(directory).as_posix() for name in (*names, *links)]
    return tuple(sorted(found))
