"""The C library, loaded once for all system calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def last_error(filename: str | None = None, what: str = "") -> OSError:
    """Return errno of this thread's last failed call as an OSError; `what` precedes the kernel's text."""
    number = ctypes.get_errno()
    text = f"{what}: {os.strerror(number)}" if what else os.strerror(number)
    return OSError(number, text) if filename is None else OSError(number, text, filename)
