"""openat2(2): open a path with limits on how it may be resolved, which open(2) cannot express."""

from __future__ import annotations

import ctypes
import os

from restore_driver.host.libc import last_error, libc

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x02, 0x04, 0x08, 0x10
_SYS_OPENAT2 = 437


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory_fd: int, path: str, flags: int, resolve: int) -> int:
    """Open a path relative to a directory; `resolve` is a mask of the RESOLVE_* constants.

    Returns:
        A descriptor with close-on-exec; the caller closes it.

    Raises:
        OSError: EXDEV when the path would leave the directory, ELOOP for a refused symbolic link, or any other error of
            openat2(2).
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    fd = libc.syscall(_SYS_OPENAT2, directory_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        raise last_error(path)
    return int(fd)
