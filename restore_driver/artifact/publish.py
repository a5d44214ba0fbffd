"""Making an artifact: in a hidden directory beside its place, and there by one rename.

A crash at any line leaves the old artifact or the new one: everything is written and fsynced under a hidden name, the
manifest last; if an older artifact stands there, renameat2(RENAME_EXCHANGE) swaps the two in one step. What a dead
draft leaves is known by its name and by nobody holding its lock: `sweep` removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from restore_driver.artifact.digest import digest_files, list_files
from restore_driver.artifact.manifest import NAME, FileEntry, Manifest, to_bytes
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted

PREFIX = ".draft-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Draft:
    """An artifact in the making; `path` is where its files are written."""

    def __init__(self, target: Path, path: Path, fd: int) -> None:
        self.target, self.path, self._fd = target, path, fd

    @classmethod
    def open(cls, target: Path) -> Draft:
        """Makes the hidden directory.

        Raises:
            DriverError: NOT_TRUSTED when others than root may write beside the artifact.
        """
        target = target.absolute()
        require_trusted(target.parent, owner=os.geteuid())
        sweep(target.parent)
        path = target.parent / f"{PREFIX}{target.name}.{os.getpid()}"
        path.mkdir(mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return cls(target, path, fd)

    def commit(self, about: Mapping[str, Any], step: Callable[[str], None] = lambda _: None) -> Manifest:
        """Digests the files, writes the manifest, publishes; `about` holds the manifest's other fields.

        `step` is told what comes next, for progress.

        Raises:
            DriverError: DISK_FULL.
        """
        try:
            step("digest")
            names = list_files(self.path)
            digests = digest_files(self._fd, names)
            entries = tuple(
                FileEntry(path=name, size_bytes=digests[name][0], digest=digests[name][1]) for name in names
            )
            manifest = Manifest(name=self.target.name, files=entries, **about)
            step("sync")
            for name in names:
                _sync(self.path / name)
            step("manifest")
            (self.path / NAME).write_bytes(to_bytes(manifest))
            _sync(self.path / NAME)
            for directory in {(self.path / name).parent for name in names} | {self.path}:
                _sync(directory)
            step("rename")
            self._swap_in(step)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DriverError(Reason.DISK_FULL, f"{self.target.parent} is full", "free some space") from error
            raise
        return manifest

    def close(self) -> None:
        """Lets go; a draft that was not published goes away."""
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)

    def _swap_in(self, step: Callable[[str], None]) -> None:
        try:
            _rename_exchange(self.path, self.target)
        except FileNotFoundError:
            os.rename(self.path, self.target)
        _sync(self.target.parent)
        step("remove old")
        shutil.rmtree(self.path, ignore_errors=True)  # the old artifact, if there was one


def sweep(root: Path) -> tuple[Path, ...]:
    """Removes drafts that nobody is making any more."""
    removed = []
    for path in root.glob(f"{PREFIX}*"):
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
            finally:
                os.close(fd)
    return tuple(removed)


def _rename_exchange(one: Path, other: Path) -> None:
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if _libc.renameat2(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
