"""File-system nodes by descriptor, in a root that other processes may change at the same time.

A process in that root may swap a file for a link to one of the host's, or for a FIFO without a writer. So a name is
opened once without following links (O_PATH | O_NOFOLLOW), and everything after uses that descriptor, if necessary
through /proc/self/fd: no name is resolved twice, and nothing blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from restore_driver.host.disk import write_all

_CHUNK_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CARRIED = ("user.", "security.capability")
_NOT_CARRIED = ("user.overlay.",)
"""Attributes of overlayfs itself where it is mounted without privileges."""
_ACCESS_LISTS = ("system.posix_acl_",)


@dataclass(frozen=True)
class FileNode:
    """An open node and its status when it was opened."""

    fd: int
    status: os.stat_result

    @property
    def path(self) -> str:
        """A path to this node, whatever its name refers to by now."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def is_directory(self) -> bool:
        """True for a directory, False for a link to one."""
        return stat.S_ISDIR(self.status.st_mode)

    def read(self) -> int:
        """Open a regular file or a directory for reading; the caller closes the descriptor."""
        return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def link_target(self) -> str:
        """Return the target of a symbolic link."""
        return os.readlink("", dir_fd=self.fd)

    def attributes(self, also: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Return the extended attributes to preserve: the user's own, a program's capabilities, and `also`."""
        found = {}
        if self.is_directory or stat.S_ISREG(self.status.st_mode):
            with suppress(OSError):  # a file system without any
                for name in os.listxattr(self.path):
                    if name.startswith((*_CARRIED, *also)) and not name.startswith(_NOT_CARRIED):
                        found[name] = os.getxattr(self.path, name)
        return found

    def settle(self, owner: tuple[int, int], mode: int, modified_ns: int, attributes: Mapping[str, bytes]) -> None:
        """Set owner (user id, group id), mode, extended attributes and modification time.

        Owner first, since it clears set-user-id bits and capabilities; time last, since everything else changes it.
        """
        os.chown(self.path, *owner)
        if not stat.S_ISLNK(self.status.st_mode):
            Path(self.path).chmod(mode)
        for name, value in attributes.items():
            try:
                os.setxattr(self.path, name, value)
            except OSError as error:  # some file systems have no user attributes
                if error.errno != errno.EOPNOTSUPP or not name.startswith("user."):
                    raise
        os.utime(self.path, ns=(modified_ns, modified_ns))


@contextmanager
def node(parent_fd: int, name: str) -> Iterator[FileNode]:
    """Open a name in a directory without following a link.

    Raises:
        FileNotFoundError: the name does not exist.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        yield FileNode(fd, os.fstat(fd))
    finally:
        os.close(fd)


@contextmanager
def directory(parent_fd: int, name: str) -> Iterator[int]:
    """Open a directory, not a link to one, for reading and as the parent of names.

    Raises:
        OSError: it does not exist or is not a directory.
    """
    fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def new_file(parent_fd: int, name: str) -> Iterator[FileNode]:
    """Create a regular file, open for writing, with mode 0600 until it is settled."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
    try:
        yield FileNode(fd, os.fstat(fd))
    finally:
        os.close(fd)


@contextmanager
def new_directory(parent_fd: int, name: str) -> Iterator[FileNode]:
    """Create an empty directory with mode 0700 until it is settled.

    Raises:
        OSError: it cannot be created, or another process swapped it.
    """
    os.mkdir(name, 0o700, dir_fd=parent_fd)
    with directory(parent_fd, name) as fd:
        made = FileNode(fd, os.fstat(fd))
        if _names(fd) or made.status.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "replaced by another process while it was created", name)
        yield made


@contextmanager
def new_other(parent_fd: int, name: str, kind: int, device: int = 0, target: str = "") -> Iterator[FileNode]:
    """Create a symbolic link (to `target`), FIFO, socket or device; `kind` is the file type of its mode.

    Raises:
        OSError: it cannot be created, or another process swapped it.
    """
    if stat.S_ISLNK(kind):
        os.symlink(target, name, dir_fd=parent_fd)
    else:
        os.mknod(name, kind | 0o600, device, dir_fd=parent_fd)
    with node(parent_fd, name) as made:
        if stat.S_IFMT(made.status.st_mode) != kind or made.status.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "replaced by another process while it was created", name)
        yield made


def copy_content(source_fd: int, target_fd: int) -> None:
    """Copy all bytes from the current offset of a descriptor to another one."""
    while chunk := os.read(source_fd, _CHUNK_BYTES):
        write_all(target_fd, chunk)


def remove(parent_fd: int, name: str) -> None:
    """Remove a name with everything below it; a missing name is no error.

    Raises:
        OSError: something could not be removed; EBUSY for a mount point, which is not changed.
    """
    with suppress(FileNotFoundError):
        if not is_directory(parent_fd, name):
            os.unlink(name, dir_fd=parent_fd)
            return
        with directory(parent_fd, name) as fd:
            if os.fstat(fd).st_dev != os.fstat(parent_fd).st_dev:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
            for inside in _names(fd):
                remove(fd, inside)
        os.rmdir(name, dir_fd=parent_fd)


def is_directory(parent_fd: int, name: str) -> bool:
    """Return True for a directory, False for a link to one and for a missing name."""
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode)
    except FileNotFoundError:
        return False


def copy(parent_fd: int, name: str, copy_name: str) -> None:
    """Copy a name with everything below it to another name in the same directory.

    Raises:
        OSError: something could not be copied; part of the copy may exist.
    """
    with node(parent_fd, name) as source:
        _copy(source, parent_fd, copy_name)


def _names(directory_fd: int) -> list[str]:
    return os.listdir(directory_fd)


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
        for name in _names(fd):
            with suppress(FileNotFoundError), node(fd, name) as entry:
                _copy(entry, made.fd, name)
    finally:
        os.close(fd)


def _settle_like(made: FileNode, source: FileNode) -> None:
    status, attributes = source.status, source.attributes(_ACCESS_LISTS)
    owner = (status.st_uid, status.st_gid)
    made.settle(owner, stat.S_IMODE(status.st_mode), status.st_mtime_ns, attributes)
