"""Shared and exclusive flock(2) on an artifact's directory: readers block its removal.

Readers (a restore, a push, a stage out of a mounted store) share the lock; removing or replacing the artifact takes the
exclusive lock and fails with BUSY if it cannot. The kernel frees the lock when its process dies, and a rename does not
break it: it belongs to the directory, not to its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restore_driver.errors import DriverError, Reason
from restore_driver.host.flock import is_unsupported, try_lock

_READER_WAITS_S = 1.0
"""How long a reader waits for the lock: `is_locked` takes the exclusive lock for a moment, too."""


@contextmanager
def shared_lock(artifact: Path) -> Iterator[None]:
    """Hold the shared lock of an artifact while the block runs.

    Raises:
        DriverError: BUSY while it is being removed or replaced; MANIFEST_INVALID if it is not a directory.
    """
    fd = _lock(artifact, f"{artifact} is being made, removed or replaced", shared=True, wait_s=_READER_WAITS_S)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def exclusive_lock(artifact: Path) -> Iterator[None]:
    """Hold the exclusive lock of an artifact while the block removes or replaces it.

    Raises:
        DriverError: BUSY while another process has a lock on it; MANIFEST_INVALID if it is not a directory.
    """
    fd = _lock(artifact, f"{artifact} is locked by a reader, such as a restore", shared=False, wait_s=0.0)
    try:
        yield
    finally:
        os.close(fd)


def is_locked(artifact: Path) -> bool:
    """Return True while an artifact is read, made or removed; False for one that does not exist."""
    try:
        with exclusive_lock(artifact):
            return False
    except DriverError as error:
        return error.reason is Reason.BUSY


def _lock(artifact: Path, busy: str, *, shared: bool, wait_s: float) -> int:
    try:
        fd = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(Reason.MANIFEST_INVALID, f"{artifact}: {error.strerror}", "give an artifact") from error
    if not _locked(fd, shared=shared, until_s=time.monotonic() + wait_s):
        os.close(fd)
        raise DriverError(Reason.BUSY, busy, "wait for its end")
    if not _still_there(artifact, fd):  # renamed away between the opening and the lock
        os.close(fd)
        raise DriverError(Reason.BUSY, f"{artifact} was removed or replaced just now", "look again")
    return fd


def _locked(fd: int, *, shared: bool, until_s: float) -> bool:
    """Wait for the lock; a file system without locks on directories counts as one where no lock is held."""
    while True:
        try:
            if try_lock(fd, shared=shared):
                return True
        except OSError as error:
            return is_unsupported(error)
        if time.monotonic() >= until_s:
            return False
        time.sleep(0.005)


def _still_there(artifact: Path, fd: int) -> bool:
    try:
        named, held = os.lstat(artifact), os.fstat(fd)
    except OSError:
        return False
    return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)
