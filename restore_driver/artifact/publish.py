"""Publish an artifact atomically: write it into a hidden directory beside its place, then rename it.

A crash at any line leaves the old artifact or the new one: everything is written and fsynced under a hidden name, the
manifest last; if an older artifact is there, renameat2(RENAME_EXCHANGE) swaps the two in one step. A draft of a killed
process has the hidden name and no lock: `sweep` removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from restore_driver.artifact.digest import digest_files, list_files
from restore_driver.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest, manifest_bytes
from restore_driver.artifact.read_lock import exclusive_lock
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import is_full, sync
from restore_driver.host.flock import lock, try_lock
from restore_driver.host.renameat2 import exchange
from restore_driver.host.trusted import require_trusted

PREFIX = ".draft-"


class Draft:
    """An unpublished artifact; its files are written below `path`."""

    def __init__(self, target: Path, path: Path, fd: int) -> None:
        self.target, self.path, self._fd = target, path, fd
        self._published = False

    @classmethod
    def open(cls, target: Path) -> Draft:
        """Create and lock the hidden directory.

        Raises:
            DriverError: NOT_TRUSTED if others than root may write beside the artifact; REQUEST_INVALID if the target
                is something else than an artifact, which would be lost.
        """
        target = target.absolute()
        require_trusted(target.parent, owner=os.geteuid())
        require_replaceable(target)
        sweep(target.parent)
        while True:
            path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{target.name}.", dir=target.parent))
            with suppress(FileNotFoundError):  # swept by another process before it was locked
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                lock(fd)
                if path.exists():
                    return cls(target, path, fd)
                os.close(fd)

    def commit(self, about: Mapping[str, Any], step: Callable[[str], None] = lambda _: None) -> Manifest:
        """Digest the files, write the manifest and publish; `about` holds the manifest's other fields.

        `step` is called with the name of each step before it begins.

        Raises:
            DriverError: DISK_FULL.
            OSError: a file cannot be read or written.
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
                sync(self.path / name)
            step("manifest")
            (self.path / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
            sync(self.path / MANIFEST_NAME)
            for directory in {(self.path / name).parent for name in names} | {self.path}:
                sync(directory)
            step("rename")
            swap_in(self.path, self.target, step)
            self._published = True
        except OSError as error:
            if is_full(error):
                raise DriverError(Reason.DISK_FULL, f"{self.target.parent} is full", "free some space") from error
            raise
        return manifest

    def close(self) -> None:
        """Release the lock, and remove a draft that was not published."""
        if not self._published:  # else this name may belong to a replaced artifact that a reader has locked
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)
        sweep(self.target.parent)  # a replaced artifact may have been locked by a reader until now


def swap_in(path: Path, target: Path, step: Callable[[str], None] = lambda _: None) -> None:
    """Move a finished directory to its place by one rename, then remove the directory that it replaced.

    Raises:
        OSError: the directory cannot be renamed or its parent synced; the target is then the old or the new one.
    """
    while not (_exchanged(path, target) or _renamed(path, target)):
        pass  # another process published or removed the target between the two calls
    sync(target.parent)
    step("remove old")
    # The replaced directory, if any; one that a reader has locked is removed by the next sweep.
    with suppress(DriverError), exclusive_lock(path):
        shutil.rmtree(path, ignore_errors=True)


def require_replaceable(target: Path) -> None:
    """Refuse a target whose replacement would lose something else than an artifact.

    An artifact, even a broken one, an empty directory, or nothing may be replaced.

    Raises:
        DriverError: REQUEST_INVALID.
    """
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST_NAME).is_file()):
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"{target} exists and is not an artifact",
            f"give a new path, such as {target}/MANIFEST_NAME",
        )


def sweep(root: Path) -> tuple[Path, ...]:
    """Remove drafts whose process has ended, and return their paths."""
    removed = []
    for path in root.glob(f"{PREFIX}*"):
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if try_lock(fd):
                    shutil.rmtree(path, ignore_errors=True)
                    removed.append(path)
            finally:
                os.close(fd)
    return tuple(removed)


def _exchanged(one: Path, other: Path) -> bool:
    """False when there is nothing to exchange with."""
    try:
        exchange(one, other)
    except FileNotFoundError:
        return False
    return True


def _renamed(one: Path, other: Path) -> bool:
    """Rename a directory; return False if something else is there by now."""
    try:
        one.rename(other)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
