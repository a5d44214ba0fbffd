"""Making an artifact: in a hidden directory beside its place, and there by one rename.

A crash at any line leaves the old artifact or the new one: everything is written and fsynced under a hidden name, the
manifest last; if an older artifact stands there, renameat2(RENAME_EXCHANGE) swaps the two in one step. What a dead
draft leaves is known by its name and by nobody holding its lock: `sweep` removes it.
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
from restore_driver.artifact.manifest import NAME, FileEntry, Manifest, to_bytes
from restore_driver.artifact.read_lock import alone
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import is_full, sync
from restore_driver.host.flock import lock, try_lock
from restore_driver.host.renameat2 import exchange
from restore_driver.host.trusted import require_trusted

PREFIX = ".draft-"


class Draft:
    """An artifact in the making; `path` is where its files are written."""

    def __init__(self, target: Path, path: Path, fd: int) -> None:
        self.target, self.path, self._fd = target, path, fd
        self._published = False

    @classmethod
    def open(cls, target: Path) -> Draft:
        """Makes the hidden directory.

        Raises:
            DriverError: NOT_TRUSTED when others than root may write beside the artifact; REQUEST_INVALID when what
                stands there is no artifact, and would be lost.
        """
        target = target.absolute()
        require_trusted(target.parent, owner=os.geteuid())
        refuse_what_is_no_artifact(target)
        sweep(target.parent)
        while True:
            path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{target.name}.", dir=target.parent))
            with suppress(FileNotFoundError):  # swept by another before it was locked
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                lock(fd)
                if path.exists():
                    return cls(target, path, fd)
                os.close(fd)

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
                sync(self.path / name)
            step("manifest")
            (self.path / NAME).write_bytes(to_bytes(manifest))
            sync(self.path / NAME)
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
        """Lets go; a draft that was not published goes away."""
        if not self._published:  # else an old artifact may stand under this name, held by a reader
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)
        sweep(self.target.parent)  # what this draft replaced, or another that replaced it, may have been held till now


def swap_in(path: Path, target: Path, step: Callable[[str], None] = lambda _: None) -> None:
    """Puts a finished directory in its place by one rename; what stood there goes away after."""
    while not (_exchanged(path, target) or _renamed(path, target)):
        pass  # whoever else publishes here came, or what stood there went, between the two
    sync(target.parent)
    step("remove old")
    # The old one, if there was one; what a reader holds goes with the next sweep.
    with suppress(DriverError), alone(path):
        shutil.rmtree(path, ignore_errors=True)


def refuse_what_is_no_artifact(target: Path) -> None:
    """An artifact, even a broken one, an empty directory or nothing may be replaced; whatever else would be lost."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir() or (any(target.iterdir()) and not (target / NAME).is_file()):
        raise DriverError(
            Reason.REQUEST_INVALID, f"{target} is there and is no artifact", f"give a new path, such as {target}/NAME"
        )


def sweep(root: Path) -> tuple[Path, ...]:
    """Removes drafts that nobody is making any more."""
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
    """False when something stands there by now."""
    try:
        os.rename(one, other)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
