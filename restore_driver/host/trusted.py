"""Refuse paths that others than root could have written, and open files without leaving their directory.

Restoring an image is running it as root, so an artifact, a socket or a directory is refused unless it and its parents
belong to root and no other user may write there (the rule of sshd's StrictModes), and a file within an artifact is
opened by openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS: neither `..` nor a link leads out.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

from restore_driver.errors import DriverError, Reason
from restore_driver.host.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


def require_trusted(path: Path, *, owner: int = 0) -> None:
    """Refuse a path unless it and every parent belong to `owner` or root and only they may write there.

    A directory with the sticky bit (such as /tmp) may be a parent: other users cannot replace the files in it.

    Raises:
        DriverError: NOT_TRUSTED, naming the first path that breaks the rule.
    """
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the links that are judged here
    for step in (*reversed(whole.parents), whole):
        try:
            status = os.lstat(step)
        except OSError as error:
            raise DriverError(
                Reason.NOT_TRUSTED, f"{step} cannot be examined: {error.strerror}", "give a path that exists"
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
    """Open a file below a directory; neither `..`, an absolute path nor any symbolic link may lead out.

    Returns:
        A file descriptor with close-on-exec.

    Raises:
        DriverError: NOT_TRUSTED when the path leaves the directory or passes a link.
        OSError: when the file cannot be opened for another reason.
    """
    refuse_escaping(relative)
    try:
        return openat2(directory_fd, relative, flags, _BENEATH)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ELOOP):
            raise
        raise DriverError(
            Reason.NOT_TRUSTED, f"{relative} leaves the artifact or is a symbolic link", "make it anew"
        ) from error


def refuse_escaping(relative: str) -> None:
    """Refuse a name that is absolute, empty, contains `..` or a NUL, before any file is opened.

    Raises:
        DriverError: NOT_TRUSTED naming it.
    """
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise DriverError(Reason.NOT_TRUSTED, f"{relative!r} is not a path within the artifact", "make it anew")
