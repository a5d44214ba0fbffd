"""mount(2) and umount2(2), and what is mounted where."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE, MS_BIND = 1, 2, 4, 8, 0x4000, 1 << 18, 4096
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2).

    Raises:
        OSError: as the kernel says, naming the target.
    """
    arguments = (source.encode(), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), options.encode())
    if _libc.mount(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path, *, lazy: bool = True) -> None:
    """umount2(2), not following a symbolic link; a target that is not mounted is no error (idempotent).

    Raises:
        OSError: as the kernel says, naming the target.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if _libc.umount2(os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        if number not in (2, 22):  # ENOENT, EINVAL: not a mount point
            raise OSError(number, os.strerror(number), str(target))


def mount_points(pid: int | str = "self") -> tuple[Path, ...]:
    """Mount points in a process's mount namespace."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return tuple(Path(line.split()[4].replace("\\040", " ")) for line in lines)
