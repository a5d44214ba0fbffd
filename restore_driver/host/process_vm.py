"""process_vm_writev(2): write into the memory of another process, and the file mappings that are written from."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from restore_driver.host.libc import last_error, libc

MOST_PIECES = 1024
"""Pieces that one call takes at most (IOV_MAX)."""
_PROT_READ, _MAP_SHARED = 1, 1
_MAP_FAILED = ctypes.c_void_p(-1).value

libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.process_vm_writev.restype = ctypes.c_ssize_t
libc.process_vm_writev.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)


class _Vector(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


def write_memory(pid: int, pieces: Sequence[tuple[int, int, int]]) -> int:
    """Write pieces of this process's memory into another process; the GIL is released meanwhile.

    Args:
        pid: PID of the process that is written to.
        pieces: (address there, address here, bytes), `MOST_PIECES` at most.

    Returns:
        Bytes written; less than asked for where memory of the other process is not mapped or not writable.

    Raises:
        OSError: nothing was written, with the error of process_vm_writev(2).
    """
    count = len(pieces)
    here = (_Vector * count)(*(_Vector(source, size) for _, source, size in pieces))
    there = (_Vector * count)(*(_Vector(address, size) for address, _, size in pieces))
    written = int(libc.process_vm_writev(pid, here, count, there, count, 0))
    if written < 0:
        raise last_error()
    return written


@contextmanager
def mapped_file(path: Path, size_bytes: int) -> Iterator[int]:
    """Map a file read-only while the block runs, and yield its address in this process.

    Raises:
        OSError: the file cannot be opened or mapped.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        address = libc.mmap(None, size_bytes, _PROT_READ, _MAP_SHARED, fd, 0)
    finally:
        os.close(fd)
    if address == _MAP_FAILED:
        raise last_error(str(path))
    try:
        yield int(address)
    finally:
        libc.munmap(address, size_bytes)
