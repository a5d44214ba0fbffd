"""A hold: whoever reads an artifact keeps it from being removed under his hands.

Readers (a restore, a push, a stage out of a mounted store) share an flock(2) on the artifact's directory; whoever would
remove or replace it must have the lock alone, and goes away if he can't. The kernel frees it when a holder dies at
whatever line, and a rename doesn't break it: it belongs to the directory, not to its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restore_driver.errors import DriverError, Reason

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EISDIR}
"""What a file system without locks on directories says (NFS does): nobody holds anything there."""
_GLANCE_S = 1.0
"""How long a reader waits for the lock: whoever looks whether an artifact is held has it for a moment, too."""


@contextmanager
def reading(artifact: Path) -> Iterator[None]:
    """Keeps an artifact in its place while the block runs; any number of readers may.

    Raises:
        DriverError: BUSY when it is being removed or replaced; MANIFEST_INVALID when it is no directory.
    """
    fd = _lock(artifact, fcntl.LOCK_SH, f"{artifact} is being made, removed or replaced", wait_s=_GLANCE_S)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def alone(artifact: Path) -> Iterator[None]:
    """Keeps readers out while the block removes or replaces an artifact.

    Raises:
        DriverError: BUSY while somebody reads it; MANIFEST_INVALID when it is no directory.
    """
    fd = _lock(artifact, fcntl.LOCK_EX, f"{artifact} is held by a reader, such as a restore", wait_s=0.0)
    try:
        yield
    finally:
        os.close(fd)


def is_held(artifact: Path) -> bool:
    """Whether somebody reads, makes or removes it now; False for one that is gone."""
    try:
        with alone(artifact):
            return False
    except DriverError as error:
        return error.reason is Reason.BUSY


def _lock(artifact: Path, kind: int, busy: str, wait_s: float) -> int:
    try:
        fd = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(Reason.MANIFEST_INVALID, f"{artifact}: {error.strerror}", "give an artifact") from error
    if not _locked(fd, kind, time.monotonic() + wait_s):
        os.close(fd)
        raise DriverError(Reason.BUSY, busy, "wait for its end")
    if not _still_there(artifact, fd):  # renamed away between the opening and the lock
        os.close(fd)
        raise DriverError(Reason.BUSY, f"{artifact} was removed or replaced just now", "look again")
    return fd


def _locked(fd: int, kind: int, until_s: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return True
            if error.errno != errno.EWOULDBLOCK or time.monotonic() >= until_s:
                return False
        time.sleep(0.005)


def _still_there(artifact: Path, fd: int) -> bool:
    try:
        named, held = os.lstat(artifact), os.fstat(fd)
    except OSError:
        return False
    return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)
