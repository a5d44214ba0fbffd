"""mount(2), umount2(2), and the mount points of a process."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path

from restore_driver.host.libc import last_error, libc

_PROC_SUPER_MAGIC = 0x9FA0
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE, MS_BIND = 1, 2, 4, 8, 0x4000, 1 << 18, 4096


def mount(source: str, target: Path, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source` at `target`; `flags` is a mask of the MS_* constants.

    Raises:
        OSError: any error of mount(2), naming the target.
    """
    arguments = (source.encode(), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), options.encode())
    if libc.mount(*arguments) != 0:
        raise last_error(str(target))


def unmount(target: Path, *, lazy: bool = True) -> None:
    """Call umount2(2) without following a symbolic link; a target that is no mount point is no error.

    Raises:
        OSError: any other error of umount2(2), naming the target.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if libc.umount2(os.fsencode(target), flags) != 0:
        error = last_error(str(target))
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # EINVAL: no mount point
            raise error


def require_procfs() -> None:
    """Refuse a /proc that is not the kernel's: paths such as /proc/self/fd/N could lead anywhere.

    Raises:
        OSError: EINVAL, naming it.
    """
    status = (ctypes.c_long * 32)()  # struct statfs: f_type first, 15 longs in all
    if libc.statfs(b"/proc", ctypes.byref(status)) != 0 or status[0] != _PROC_SUPER_MAGIC:
        raise OSError(errno.EINVAL, "/proc is not the kernel's", "/proc")


def mount_points(pid: int | str = "self") -> tuple[Path, ...]:
    """Return the mount points in a process's mount namespace.

    Raises:
        OSError: the process does not exist.
    """
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return tuple(mount_point(line) for line in lines)


def mount_point(line: str) -> Path:
    """Return the mount point of a line of mountinfo, where blanks and the like are octal escapes (proc(5))."""
    return Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[4]))
