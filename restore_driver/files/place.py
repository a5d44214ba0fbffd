"""Out of the artifact, into a placeholder's root; and back again when the restore fails.

Everything is resolved within the placeholder's root (`in_root.py`), and by descriptors (`nodes.py`), since its
processes may change it meanwhile. What stood there before is moved aside first, to a name of this attempt's, so taking
back needs only the attempt's key and which paths were there before: both in the journal before the first change.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.files.capture import DELETED, OPAQUE, attributes, modified_ns
from restore_driver.files.in_root import open_parent
from restore_driver.files.nodes import FileNode, copy, is_directory, new_directory, new_file, new_other, remove
from restore_driver.host.trusted import refuse_escaping


def survey(archive: Path, root: Path) -> dict[str, bool]:
    """Paths that placing would touch, in its order -> whether something stands there now; for the journal.

    Directories that are missing above a path are among them.

    Raises:
        DriverError: NOT_TRUSTED for a name that leaves the root.
    """
    with tarfile.open(archive, encoding="utf-8") as tar:
        names = tuple(member.name for member in tar)
    for name in names:
        refuse_escaping(name)
    stood: dict[str, bool] = {}
    with _root(root) as root_fd:
        for name in names:
            for parent in reversed(PurePosixPath(name).parents[:-1]):
                if str(parent) not in stood and not _stands(root_fd, str(parent)):
                    stood[str(parent)] = False
            stood.setdefault(name, _stands(root_fd, name))
    return stood


def place(archive: Path, root: Path, key: str, deadline: Deadline) -> int:
    """Writes the archive's files below `root`; returns how many."""
    count = 0
    with _root(root) as root_fd, tarfile.open(archive, encoding="utf-8") as tar:
        for member in tar:
            deadline.left_s()
            refuse_escaping(member.name)
            _place_one(tar, member, root_fd, key)
            count += 1
    return count


def take_back(stood: dict[str, bool], root: Path, key: str) -> None:
    """Removes what `place` wrote and moves back what stood there; idempotent, children before parents.

    Raises:
        OSError: the first thing that could not be taken back; all else is.
    """
    failed: OSError | None = None
    with _root(root) as root_fd:
        for path, stood_before in reversed(stood.items()):
            try:
                _take_path_back(root_fd, path, key, stood_before)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                failed = failed or error
    if failed is not None:
        raise failed


def _take_path_back(root_fd: int, path: str, key: str, stood_before: bool) -> None:
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
                    remove(parent_fd, _aside(name, key))
                finally:
                    os.close(parent_fd)


def _place_one(tar: tarfile.TarFile, member: tarfile.TarInfo, root_fd: int, key: str) -> None:
    parent_fd, name = open_parent(root_fd, member.name, make=True)
    try:
        if member.isdir() and OPAQUE not in member.pax_headers and is_directory(parent_fd, name):
            return
        _move_aside(parent_fd, name, key)
        if DELETED in member.pax_headers:
            return
        _create(tar, member, parent_fd, name)
    finally:
        os.close(parent_fd)


def _create(tar: tarfile.TarFile, member: tarfile.TarInfo, parent_fd: int, name: str) -> None:
    if member.isdir():
        with new_directory(parent_fd, name) as made:
            _settle(made, member)
    elif member.issym():
        with new_other(parent_fd, name, stat.S_IFLNK, target=member.linkname) as made:
            _settle(made, member)
    elif member.isfifo():
        with new_other(parent_fd, name, stat.S_IFIFO) as made:
            _settle(made, member)
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None
        with new_file(parent_fd, name) as made:
            with os.fdopen(os.dup(made.fd), "wb") as target:
                shutil.copyfileobj(content, target, 1 << 20)
            _settle(made, member)
    else:
        raise DriverError(Reason.MANIFEST_INVALID, f"{member.name} in files.tar is of no kind that may be restored")


def _settle(made: FileNode, member: tarfile.TarInfo) -> None:
    made.settle(member.uid, member.gid, member.mode, modified_ns(member), attributes(member))


def _take_one_back(parent_fd: int, name: str, aside: str, stood_before: bool) -> None:
    remove(parent_fd, _half(aside))
    if _exists(parent_fd, aside):
        remove(parent_fd, name)
        os.rename(aside, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    elif not stood_before:
        remove(parent_fd, name)


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
    """Told by a digest: a name of its own for each name, however long, and each attempt."""
    digest = hashlib.sha256(os.fsencode(f"{key}/{name}")).hexdigest()
    return f".forethaw-{digest[:32]}"


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
    remove(parent_fd, _half(aside))
    copy(parent_fd, name, _half(aside))
    os.rename(_half(aside), aside, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    remove(parent_fd, name)


def _half(aside: str) -> str:
    return f"{aside}.half"


def _exists(parent_fd: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _root(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
