"""One file, directory, link or the like in a root that others may change at the same time, held by a descriptor.

Whoever lives in that root may swap a file for a link to one of ours, or for a FIFO that nobody writes to. So a name is
opened once, as what it is (O_PATH | O_NOFOLLOW), and everything after goes to that descriptor, if need be through our
own /proc/self/fd: no second look by name follows, and nothing blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from restore_driver.host.disk import write_all

_CHUNK_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CARRIED = ("user.", "security.capability")
_NOT_CARRIED = ("user.overlay.",)
"""What overlayfs keeps there of itself where it is mounted without privileges."""
_ACCESS_LISTS = ("system.posix_acl_",)


@dataclass(frozen=True)
class FileNode:
    """An open name and what it was when it was opened."""

    fd: int
    status: os.stat_result

    @property
    def path(self) -> str:
        """Leads to this very node, whatever its name means by now."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def is_directory(self) -> bool:
        """Not a link to one."""
        return stat.S_ISDIR(self.status.st_mode)

    def read(self) -> int:
        """A descriptor for reading a regular file or a directory; the caller closes it."""
        return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def link_target(self) -> str:
        """Where a symbolic link points."""
        return os.readlink("", dir_fd=self.fd)

    def attributes(self, also: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Extended attributes that belong to the content: the user's own, a program's capabilities, and `also`."""
        found = {}
        if self.is_directory or stat.S_ISREG(self.status.st_mode):
            with suppress(OSError):  # a file system without any
                for name in os.listxattr(self.path):
                    if name.startswith((*_CARRIED, *also)) and not name.startswith(_NOT_CARRIED):
                        found[name] = os.getxattr(self.path, name)
        return found

    def settle(self, user_id: int, group_id: int, mode: int, modified_ns: int, attributes: Mapping[str, bytes]) -> None:
        """Owner first, which clears set-user-id bits and capabilities; time last, which all else changes."""
        os.chown(self.path, user_id, group_id)
        if not stat.S_ISLNK(self.status.st_mode):
            os.chmod(self.path, mode)
        for name, value in attributes.items():
            try:
                os.setxattr(self.path, name, value)
            except OSError as error:  # some file systems keep no attributes of users'
                if error.errno != errno.EOPNOTSUPP or not name.startswith("user."):
                    raise
        os.utime(self.path, ns=(modified_ns, modified_ns))


@contextmanager
def node(parent_fd: int, name: str) -> Iterator[FileNode]:
    """Opens a name in a directory as what it is.

    Raises:
        FileNotFoundError: there is none.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        yield FileNode(fd, os.fstat(fd))
    finally:
        os.close(fd)


@contextmanager
def directory(parent_fd: int, name: str) -> Iterator[int]:
    """A directory, not a link to one, for reading and as the parent of names.

    Raises:
        OSError: it is something else, or nothing.
    """
    fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def new_file(parent_fd: int, name: str) -> Iterator[FileNode]:
    """A new regular file, open for writing, nobody's but root's until it is settled."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
    try:
        yield FileNode(fd, os.fstat(fd))
    finally:
        os.close(fd)


@contextmanager
def new_directory(parent_fd: int, name: str) -> Iterator[FileNode]:
    """A new, empty directory, nobody's but root's until it is settled."""
    os.mkdir(name, 0o700, dir_fd=parent_fd)
    with directory(parent_fd, name) as fd:
        made = FileNode(fd, os.fstat(fd))
        if os.listdir(fd) or made.status.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "swapped for another while it was made", name)
        yield made


@contextmanager
def new_other(parent_fd: int, name: str, kind: int, device: int = 0, target: str = "") -> Iterator[FileNode]:
    """A new symbolic link (to `target`), FIFO, socket or device: `kind` is the file type of its mode."""
    if stat.S_ISLNK(kind):
        os.symlink(target, name, dir_fd=parent_fd)
    else:
        os.mknod(name, kind | 0o600, device, dir_fd=parent_fd)
    with node(parent_fd, name) as made:
        if stat.S_IFMT(made.status.st_mode) != kind or made.status.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "swapped for another while it was made", name)
        yield made


def copy_content(source_fd: int, target_fd: int) -> None:
    """All bytes from here on."""
    while chunk := os.read(source_fd, _CHUNK_BYTES):
        write_all(target_fd, chunk)


def remove(parent_fd: int, name: str) -> None:
    """Removes whatever has this name, with all below it; nothing there is no error.

    Raises:
        OSError: something could not be removed; EBUSY for what is mounted there, which is left as it is.
    """
    with suppress(FileNotFoundError):
        if not is_directory(parent_fd, name):
            os.unlink(name, dir_fd=parent_fd)
            return
        with directory(parent_fd, name) as fd:
            if os.fstat(fd).st_dev != os.fstat(parent_fd).st_dev:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
            for inside in os.listdir(fd):
                remove(fd, inside)
        os.rmdir(name, dir_fd=parent_fd)


def is_directory(parent_fd: int, name: str) -> bool:
    """True for a directory itself, not for a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode)
    except FileNotFoundError:
        return False


def copy(parent_fd: int, name: str, copy_name: str) -> None:
    """Copies whatever has this name, with all below it, to another name beside it.

    Raises:
        OSError: something could not be copied; part of the copy may be there.
    """
    with node(parent_fd, name) as source:
        _copy(source, parent_fd, copy_name)


def _copy(source: FileNode, target_fd: int, name: str) -> None:
    kind = stat.S_IFMT(source.status.st_mode)
    if stat.S_ISDIR(kind):
        with new_directory(target_fd, name) as made:
            _copy_entries(source, made)
            _settle_like(made, source)
    elif stat.S_ISREG(kind):
        with new_file(target_fd, name) as made:
            content_fd = source.read()
            try:
                copy_content(content_fd, made.fd)
            finally:
                os.close(content_fd)
            _settle_like(made, source)
    else:
        target = source.link_target() if stat.S_ISLNK(kind) else ""
        with new_other(target_fd, name, kind, source.status.st_rdev, target) as made:
            _settle_like(made, source)


def _copy_entries(source: FileNode, made: FileNode) -> None:
    fd = source.read()
    try:
        for name in os.listdir(fd):
            with suppress(FileNotFoundError), node(fd, name) as entry:
                _copy(entry, made.fd, name)
    finally:
        os.close(fd)


def _settle_like(made: FileNode, source: FileNode) -> None:
    status, attributes = source.status, source.attributes(_ACCESS_LISTS)
    made.settle(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime_ns, attributes)
