"""What root may act on: paths that only root can have written, reached without leaving their directory.

Restoring an image is running it as root, so an artifact, a socket or a directory is refused unless it and its
parents belong to root and nobody else may write there (the rule of sshd's StrictModes), and a file within an
artifact is opened by openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS: neither `..` nor a link leads out.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path, PurePosixPath

from restore_driver.errors import DriverError, Reason

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def require_trusted(path: Path, *, owner: int = 0) -> None:
    """Refuses a path unless it and every parent belong to `owner` or root and only they may write there.

    A directory with the sticky bit (such as /tmp) may be a parent: others can't replace what is in it.

    Raises:
        DriverError: NOT_TRUSTED, naming the first path that breaks the rule.
    """
    whole = Path(os.path.abspath(path))
    for step in (*reversed(whole.parents), whole):
        try:
            status = os.lstat(step)
        except OSError as error:
            raise DriverError(
                Reason.NOT_TRUSTED, f"{step} cannot be looked at: {error.strerror}", "give a path that exists"
            ) from error
        if stat.S_ISLNK(status.st_mode):
            if step == whole or status.st_uid not in (0, owner):
                raise DriverError(Reason.NOT_TRUSTED, f"{step} is a symbolic link", "give the real path")
            require_trusted(Path(os.path.realpath(step)), owner=owner)
            continue
        if status.st_uid not in (0, owner):
            raise DriverError(
                Reason.NOT_TRUSTED, f"{step} belongs to user {status.st_uid}, not to root", f"chown root {step}"
            )
        others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if others_write and not (step != whole and status.st_mode & stat.S_ISVTX):
            raise DriverError(Reason.NOT_TRUSTED, f"{step} may be written by others than root", f"chmod go-w {step}")


def open_beneath(directory_fd: int, relative: str, flags: int = os.O_RDONLY) -> int:
    """Opens a file below a directory; neither `..`, an absolute path nor any symbolic link may lead out.

    Returns:
        A file descriptor with close-on-exec.

    Raises:
        DriverError: NOT_TRUSTED when the path leaves the directory or passes a link.
        OSError: when the file cannot be opened for another reason.
    """
    refuse_escaping(relative)
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    fd = _libc.syscall(_SYS_OPENAT2, directory_fd, os.fsencode(relative), ctypes.byref(how), ctypes.sizeof(how))
    if fd >= 0:
        return int(fd)
    number = ctypes.get_errno()
    if number in (18, 40):  # EXDEV: left the directory; ELOOP: a symbolic link
        raise DriverError(Reason.NOT_TRUSTED, f"{relative} leaves the artifact or is a symbolic link", "make it anew")
    raise OSError(number, os.strerror(number), relative)


def refuse_escaping(relative: str) -> None:
    """Refuses a name that is absolute, empty or climbs out by `..`, before any file is looked at."""
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise DriverError(Reason.NOT_TRUSTED, f"{relative!r} is not a path within the artifact", "make it anew")
