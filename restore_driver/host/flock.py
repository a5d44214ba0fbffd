"""flock(2): locks that belong to an open file and that the kernel frees when their process dies, at any line."""

from __future__ import annotations

import errno
import fcntl

_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EISDIR}
"""Errors of file systems without locks on directories, such as NFS."""


def lock(fd: int) -> None:
    """Take the exclusive lock and wait for it as long as necessary.

    Raises:
        OSError: any error of flock(2).
    """
    fcntl.flock(fd, fcntl.LOCK_EX)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take the exclusive (or a shared) lock without waiting; False while another open file holds it.

    Raises:
        OSError: any other error of flock(2), such as that of a file system without locks (`is_unsupported`).
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_unsupported(error: OSError) -> bool:
    """Return True for the error of a file system that cannot lock this kind of file."""
    return error.errno in _UNSUPPORTED
