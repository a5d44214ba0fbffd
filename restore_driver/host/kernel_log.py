"""syslog(2), which glibc calls klogctl: the kernel's ring buffer of messages."""

from __future__ import annotations

import ctypes

from restore_driver.host.libc import libc

_READ_ALL = 3
_LONGEST_BYTES = 1 << 18


def read_kernel_log() -> str:
    """Return the last 256 KiB of kernel messages; empty where this process may not read them."""
    buffer = ctypes.create_string_buffer(_LONGEST_BYTES)
    length = libc.klogctl(_READ_ALL, buffer, len(buffer))
    return buffer.raw[:length].decode(errors="replace") if length > 0 else ""
