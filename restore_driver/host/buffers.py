"""Addresses of Python buffers, for the CUDA driver's functions, and the C library's free memory.

Standard library only: `replica/` imports this module within a replica's process.
"""

from __future__ import annotations

import ctypes
import mmap

from restore_driver.host.libc import libc


def address_of(buffer: mmap.mmap | memoryview) -> int:
    """Return the address of a writable buffer's first byte; valid while the buffer is."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def copy_to_address(address: int, content: bytes) -> None:
    """Copy bytes to an address of this process."""
    ctypes.memmove(address, content, len(content))


def trim_heap() -> None:
    """Return free heap memory to the kernel (malloc_trim(3)), so that a dump does not contain it."""
    libc.malloc_trim(0)
