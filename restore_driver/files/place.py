"""Place an artifact's files into a placeholder's root, and roll that back if the restore fails.

Everything is resolved within the placeholder's root (`in_root.py`) and by descriptor (`nodes.py`), since its processes
may change it meanwhile. Existing files are moved aside first, to a name of this attempt, so a roll-back needs only the
attempt's key and which paths existed before: the journal has both before the first change.
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
from typing import IO

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.files.capture import DELETED, OPAQUE, attributes, modified_ns
from restore_driver.files.in_root import open_parent
from restore_driver.files.nodes import FileNode, copy, is_directory, new_directory, new_file, new_other, remove
from restore_driver.host.trusted import refuse_escaping


def survey(archive: Path, root: Path) -> dict[str, bool]:
    """Return the paths that `place` touches, in its order -> True if the path exists now; for the journal.

    Missing directories above a path are included.

    Raises:
        DriverError: NOT_TRUSTED for a name that leaves the root.
        OSError: the root or the archive cannot be opened.
    """
    with tarfile.open(archive, encoding="utf-8") as tar:
        names = tuple(member.name for member in tar)
    for name in names:
        refuse_escaping(name)
    existed: dict[str, bool] = {}
    with _root(root) as root_fd:
        for name in names:
            for parent in reversed(PurePosixPath(name).parents[:-1]):
                if str(parent) not in existed and not _exists_in(root_fd, str(parent)):
                    existed[str(parent)] = False
            existed.setdefault(name, _exists_in(root_fd, name))
    return existed


def place(archive: Path, root: Path, key: str, deadline: Deadline) -> int:
    """Write the archive's files below `root` and return their number.

    Raises:
        DriverError: DEADLINE_EXCEEDED; NOT_TRUSTED for a name that leaves the root; MANIFEST_INVALID for a member of
            another kind than file, directory, symbolic link and FIFO.
        OSError: a file cannot be written.
    """
    count = 0
    with _root(root) as root_fd, tarfile.open(archive, encoding="utf-8") as tar:
        for member in tar:
            deadline.left_s()
            refuse_escaping(member.name)
            _place_one(tar, member, root_fd, key)
            count += 1
    return count


def roll_back(existed: dict[str, bool], root: Path, key: str) -> None:
    """Remove what `place` wrote and move back what existed before; idempotent, children before parents.

    Raises:
        OSError: the first path that could not be rolled back; all others are.
    """
    failed: OSError | None = None
    with _root(root) as root_fd:
        for path, existed_before in reversed(existed.items()):
            try:
                _roll_back_path(root_fd, path, key, existed_before=existed_before)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                failed = failed or error
    if failed is not None:
        raise failed


def _roll_back_path(root_fd: int, path: str, key: str, *, existed_before: bool) -> None:
    parent_fd, name = open_parent(root_fd, path)
    try:
        _roll_back_name(parent_fd, name, _aside(name, key), existed_before=existed_before)
    finally:
        os.close(parent_fd)


def remove_aside(existed: dict[str, bool], root: Path, key: str) -> None:
    """Remove what was moved aside, once the replica is proven.

    Raises:
        OSError: something could not be removed.
    """
    with _root(root) as root_fd:
        for path in existed:
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
        with new_file(parent_fd, name) as made:
            with os.fdopen(os.dup(made.fd), "wb") as target:
                shutil.copyfileobj(_content(tar, member), target, 1 << 20)
            _settle(made, member)
    else:
        raise _invalid_member(member)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    if content is None:  # tarfile's type for other members than files
        raise _invalid_member(member)
    return content


def _invalid_member(member: tarfile.TarInfo) -> DriverError:
    return DriverError(Reason.MANIFEST_INVALID, f"{member.name} in files.tar is of a kind that cannot be restored")


def _settle(made: FileNode, member: tarfile.TarInfo) -> None:
    made.settle((member.uid, member.gid), member.mode, modified_ns(member), attributes(member))


def _roll_back_name(parent_fd: int, name: str, aside: str, *, existed_before: bool) -> None:
    remove(parent_fd, _half(aside))
    if _exists(parent_fd, aside):
        remove(parent_fd, name)
        os.rename(aside, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    elif not existed_before:
        remove(parent_fd, name)


def _exists_in(root_fd: int, path: str) -> bool:
    try:
        parent_fd, name = open_parent(root_fd, path)
    except OSError:
        return False
    try:
        return _exists(parent_fd, name)
    finally:
        os.close(parent_fd)


def _aside(name: str, key: str) -> str:
    """Return the name to move a file aside to: a digest, unique for each name of any length and each attempt."""
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
    """Copy a directory of the image aside, which overlayfs cannot rename (EXDEV).

    It is copied under a third name first, so that a crash never leaves half a copy under the name that a roll-back
    uses.
    """
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
