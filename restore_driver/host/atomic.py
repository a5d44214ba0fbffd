"""Durable, atomic writes: a file holds its old content or all of the new one, after a crash at any line.

The new content goes to a temporary name beside the file, is fsynced, takes the file's name by one rename, and the
directory is fsynced, since the rename itself is data of the directory (fsync(2), rename(2)). Writers of one file take
turns by a lock on the temporary file; one that a killed writer left behind is overwritten by the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restore_driver.host.disk import sync, write_all
from restore_driver.host.flock import is_unsupported, lock

_SUFFIX = ".new"
_MODE = 0o600


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file, durably; the file's mode is 0600.

    Raises:
        OSError: the file could not be written (ENOSPC, EDQUOT, ...); the old content stands and nothing is left beside
            it.
    """
    with atomic_file(path) as fd:
        write_all(fd, content)


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Iterator[int]:
    """Yield an empty file's descriptor; the file takes its name when the block ends, and is removed when it raises.

    Args:
        path: file that is created or replaced.
        temporary: name of the content until then, in the same directory; default: the file's name and `.new`.

    Raises:
        OSError: the file could not be written; the old content stands.
    """
    new = temporary or path.with_name(path.name + _SUFFIX)
    fd = _open_locked(new)
    try:
        try:
            os.fchmod(fd, _MODE)
            os.ftruncate(fd, 0)
            yield fd
            os.fsync(fd)
            replace_durably(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    finally:
        os.close(fd)


def replace_durably(new: Path, old: Path) -> None:
    """Give a file that was fsynced the name of another, and fsync the directory.

    Raises:
        OSError: any error of rename(2) or fsync(2).
    """
    new.rename(old)
    sync(old.parent)


def replace_keeping_owner(new: Path, old: Path) -> None:
    """Give a file the owner, mode and name of another by one rename; atomic, not durable.

    For files of an unpublished draft, all of which are fsynced before it is published: an fsync here would write
    gigabytes while the replica is paused.

    Raises:
        OSError: any error of chown(2), chmod(2) or rename(2).
    """
    status = old.stat()
    os.chown(new, status.st_uid, status.st_gid)
    new.chmod(status.st_mode & 0o777)
    new.rename(old)


def _open_locked(path: Path) -> int:
    """Open and lock a temporary file; one that its writer renamed or removed meanwhile is opened anew."""
    while True:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            _lock_if_supported(fd)
            if _is_named(path, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock_if_supported(fd: int) -> None:
    try:
        lock(fd)
    except OSError as error:
        if not is_unsupported(error):
            raise


def _is_named(path: Path, fd: int) -> bool:
    try:
        named, held = os.lstat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
