"""Open paths as a process in another root would, without ever leaving that root.

`/proc/PID/root/a/b` is not enough: an absolute symbolic link in there is followed in *our* root. openat2(2) with
RESOLVE_IN_ROOT follows links as the other process would.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import PurePosixPath

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open a path within a root directory; the caller closes the descriptor.

    Raises:
        OSError: the path cannot be opened.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    fd = _libc.syscall(_SYS_OPENAT2, root_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return int(fd)


def open_parent(root_fd: int, path: str, *, make: bool = False) -> tuple[int, str]:
    """Open the directory of a path, and return its descriptor and the path's last part.

    `make` creates missing directories with mode 0755. The caller closes the descriptor.

    Raises:
        OSError: a directory cannot be opened or created.
    """
    pure = PurePosixPath("/") / path
    if make:
        for directory in reversed(pure.parents[:-1]):
            upper_fd = open_in_root(root_fd, str(directory.parent), os.O_RDONLY | os.O_DIRECTORY)
            try:
                with suppress(FileExistsError):
                    os.mkdir(directory.name, 0o755, dir_fd=upper_fd)
            finally:
                os.close(upper_fd)
    return open_in_root(root_fd, str(pure.parent), os.O_RDONLY | os.O_DIRECTORY), pure.name
