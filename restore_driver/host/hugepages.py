"""Huge pages: for restored memory a system-wide switch, put back after; for images a tmpfs of huge pages.

CRIU's time is page faults and one thread's copy. With transparent huge pages `always` while it restores, a fault brings
2 MiB instead of 4 KiB. The kernel offers no such switch per process (PR_SET_THP_DISABLE only forbids; madvise needs
the restored code's help), so the system's is set, counted among several restores at once, and put back by the last.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.mounts import MS_NODEV, MS_NOSUID, mount, mount_points

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_RECORD = "transparent-huge-pages.json"


def read_switch(switch: Path = SWITCH) -> str:
    """The setting in force, the word in brackets."""
    return switch.read_text().split("[")[1].split("]")[0]


@contextmanager
def transparent_huge_pages(wanted: str, directory: Path, switch: Path = SWITCH) -> Iterator[None]:
    """Sets the switch while the block runs; several blocks may overlap, the last one out puts it back.

    Raises:
        DriverError: REQUEST_INVALID where the setting may not be changed.
    """
    me = {"pid": os.getpid(), "start_ticks": proc.start_ticks(os.getpid())}
    with _record(directory) as (users, was, write):
        was = was if users else read_switch(switch)
        write([*users, me], was)
        _set(switch, wanted)
    try:
        yield
    finally:
        with _record(directory) as (users, was, write):
            with suppress(ValueError):
                users.remove(me)
            _leave(users, was, write, switch)


def put_back_stale(directory: Path, switch: Path = SWITCH) -> bool:
    """After a kill -9: forgets dead users and, if none is left, puts the setting back; True if it did."""
    if not (directory / _RECORD).exists():
        return False
    with _record(directory) as (users, was, write):
        alive = [user for user in users if _lives(user)]
        if len(alive) == len(users):
            return False
        return _leave(alive, was, write, switch)


def mount_huge_tmpfs(path: Path, size_bytes: int) -> None:
    """Mounts a tmpfs of huge pages, for images that are kept in memory; already there is fine.

    Raises:
        DriverError: REQUEST_INVALID where the kernel has none.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_huge_tmpfs(path):
        return
    try:
        mount("tmpfs", path, "tmpfs", MS_NODEV | MS_NOSUID, f"huge=always,mode=0700,size={size_bytes}")
    except OSError as error:
        raise DriverError(Reason.REQUEST_INVALID, f"no tmpfs of huge pages at {path}: {error.strerror}") from error


def is_huge_tmpfs(path: Path) -> bool:
    """True when a path is the mount point of a tmpfs with `huge=always`."""
    if path.absolute() not in mount_points():
        return False
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == str(path.absolute()) and after.startswith("tmpfs ") and "huge=always" in after:
            return True
    return False


_Users = list[dict[str, int]]
_Write = Callable[[_Users, str], None]


@contextmanager
def _record(directory: Path) -> Iterator[tuple[_Users, str, _Write]]:
    """The users of the switch and what it was before the first, under a lock."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / _RECORD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        text = os.pread(fd, 1 << 20, 0)
        content: dict[str, Any] = json.loads(text) if text else {"users": [], "was": ""}

        def write(users: _Users, was: str) -> None:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"users": users, "was": was}).encode(), 0)

        yield content["users"], content["was"], write
    finally:
        os.close(fd)


def _leave(users: _Users, was: str, write: _Write, switch: Path) -> bool:
    if not users and was:
        _set(switch, was)
        was = ""
        write(users, was)
        return True
    write(users, was)
    return False


def _set(switch: Path, value: str) -> None:
    try:
        switch.write_text(value)
    except OSError as error:
        raise DriverError(
            Reason.REQUEST_INVALID, f"{switch} can't be set to {value}: {error.strerror}", "leave huge pages out"
        ) from error


def _lives(user: dict[str, int]) -> bool:
    try:
        return proc.is_alive(user["pid"]) and proc.start_ticks(user["pid"]) == user["start_ticks"]
    except DriverError:
        return False
