"""Out of the artifact, into a placeholder's root; and back again when the restore fails.

Everything is resolved within the placeholder's root (`in_root.py`). What stood there before is moved aside first, to
a name of this attempt's, so taking back needs only the attempt's key and which paths were there before: both in the
journal before the first change.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.files.capture import DELETED, OPAQUE
from restore_driver.files.in_root import open_parent
from restore_driver.host.process import run
from restore_driver.host.trusted import refuse_escaping

_COPY_DEADLINE_S = 30.0


def survey(archive: Path, root: Path) -> dict[str, bool]:
    """Paths that placing would touch, in its order -> whether something stands there now; for the journal.

    Raises:
        DriverError: NOT_TRUSTED for a name that leaves the root.
    """
    with tarfile.open(archive) as tar:
        names = tuple(member.name for member in tar)
    for name in names:
        refuse_escaping(name)
    with _root(root) as root_fd:
        return {name: _stands(root_fd, name) for name in names}


def place(archive: Path, root: Path, key: str, deadline: Deadline) -> int:
    """Writes the archive's files below `root`; returns how many."""
    count = 0
    with _root(root) as root_fd, tarfile.open(archive) as tar:
        for member in tar:
            deadline.left_s()
            refuse_escaping(member.name)
            _place_one(tar, member, root_fd, key)
            count += 1
    return count


def take_back(stood: dict[str, bool], root: Path, key: str) -> None:
    """Removes what `place` wrote and moves back what stood there; idempotent, children before parents."""
    with _root(root) as root_fd:
        for path, stood_before in reversed(stood.items()):
            with suppress(FileNotFoundError, NotADirectoryError):
                parent_fd, name = open_parent(root_fd, path)
                try:
                    _take_one_back(parent_fd, name, _aside(name, key), stood_before)
                finally:
                    os.close(parent_fd)


def forget_aside(stood: dict[str, bool], root: Path, key: str) -> None:
    """Removes what was moved aside, once the replica is proven."""
    with _root(root) as root_fd:
        for path in stood:
            with suppress(FileNotFoundError, NotADirectoryError):
                parent_fd, name = open_parent(root_fd, path)
                try:
                    _remove(parent_fd, _aside(name, key))
                finally:
                    os.close(parent_fd)


def _place_one(tar: tarfile.TarFile, member: tarfile.TarInfo, root_fd: int, key: str) -> None:
    parent_fd, name = open_parent(root_fd, member.name, make=True)
    try:
        if member.isdir() and OPAQUE not in member.pax_headers and _is_directory(parent_fd, name):
            return
        _move_aside(parent_fd, name, key)
        if DELETED in member.pax_headers:
            return
        _create(tar, member, parent_fd, name)
    finally:
        os.close(parent_fd)


def _create(tar: tarfile.TarFile, member: tarfile.TarInfo, parent_fd: int, name: str) -> None:
    if member.isdir():
        os.mkdir(name, member.mode, dir_fd=parent_fd)
    elif member.issym():
        os.symlink(member.linkname, name, dir_fd=parent_fd)
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, member.mode, dir_fd=parent_fd), "wb") as target:
            shutil.copyfileobj(content, target, 1 << 20)
    elif member.isfifo():
        os.mkfifo(name, member.mode, dir_fd=parent_fd)
    else:
        raise DriverError(Reason.MANIFEST_INVALID, f"{member.name} in files.tar is of no kind that may be restored")
    os.chown(name, member.uid, member.gid, dir_fd=parent_fd, follow_symlinks=False)
    if not member.issym():
        os.chmod(name, member.mode, dir_fd=parent_fd)
        os.utime(name, (member.mtime, member.mtime), dir_fd=parent_fd)


def _take_one_back(parent_fd: int, name: str, aside: str, stood_before: bool) -> None:
    _remove(parent_fd, _half(aside))
    if _exists(parent_fd, aside):
        _remove(parent_fd, name)
        os.rename(aside, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    elif not stood_before:
        _remove(parent_fd, name)


def _stands(root_fd: int, path: str) -> bool:
    try:
        parent_fd, name = open_parent(root_fd, path)
    except OSError:
        return False
    try:
        return _exists(parent_fd, name)
    finally:
        os.close(parent_fd)


def _aside(name: str, key: str) -> str:
    return f".{name[:100]}.before-{key[:32]}"


def _move_aside(parent_fd: int, name: str, key: str) -> None:
    aside = _aside(name, key)
    try:
        os.rename(name, aside, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_aside(parent_fd, name, aside)


def _copy_aside(parent_fd: int, name: str, aside: str) -> None:
    """overlayfs renames no directory of the image (EXDEV): copied whole under a third name first, so that a crash
    never leaves half a copy under the name that taking back trusts."""
    here = f"/proc/self/fd/{parent_fd}"
    _remove(parent_fd, _half(aside))
    argv = ["cp", "--archive", "--", f"{here}/{name}", f"{here}/{_half(aside)}"]
    done = run(argv, deadline_s=_COPY_DEADLINE_S, pass_fds=[parent_fd])
    if done.exit_code != 0:
        raise DriverError(Reason.INTERNAL, f"{name} could not be moved aside: {done.output.strip()}")
    os.rename(_half(aside), aside, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    _remove(parent_fd, name)


def _half(aside: str) -> str:
    return f"{aside}.half"


def _exists(parent_fd: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return False
    return True


def _is_directory(parent_fd: int, name: str) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    except OSError:
        return False
    os.close(fd)
    return True


def _remove(parent_fd: int, name: str) -> None:
    if _is_directory(parent_fd, name):
        shutil.rmtree(name, dir_fd=parent_fd)
    else:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent_fd)


@contextmanager
def _root(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
