"""Huge pages: a system-wide setting for the time of a restore, and a tmpfs of huge pages for images.

CRIU's time is page faults and one thread's copy. With transparent huge pages `always` while it restores, a fault maps
2 MiB instead of 4 KiB. The kernel has no such setting per process (PR_SET_THP_DISABLE only forbids; madvise needs the
restored code's help), so the system's is set, counted among concurrent restores, and put back by the last of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.flock import lock
from restore_driver.host.mounts import MS_NODEV, MS_NOSUID, mount, mount_point

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_RECORD = "transparent-huge-pages.json"


def read_switch(switch: Path = SWITCH) -> str:
    """Return the current setting: the word in brackets."""
    return switch.read_text().split("[")[1].split("]")[0]


Warn = Callable[[str], None]
"""Called with a sentence about a side effect that failed; the work itself goes on."""


def _ignore(sentence: str) -> None:
    """Discard a warning."""


@contextmanager
def transparent_huge_pages(
    wanted: str, directory: Path, switch: Path = SWITCH, *, warn: Warn = _ignore
) -> Iterator[bool]:
    """Set the system-wide setting while the block runs; blocks may overlap, and the last one puts it back.

    Yields True; False where the setting cannot be changed: everything works without huge pages, only slower. A setting
    that cannot be put back is reported by `warn`, and `put_back_stale` tries again.
    """
    me = {"pid": os.getpid(), "start_ticks": proc.start_ticks(os.getpid())}
    why_not = _enter(me, wanted, directory, switch)
    if why_not:
        warn(f"no huge pages: {why_not}")
    try:
        yield not why_not
    finally:
        if not why_not:
            why_not = _exit(me, directory, switch)
            if why_not:
                warn(f"not put back: {why_not}")


def put_back_stale(directory: Path, switch: Path = SWITCH) -> bool:
    """Forget users that were killed and, if none is left, put the setting back; return True if it was."""
    if not (directory / _RECORD).exists():
        return False
    with _record(directory) as (users, was, write):
        alive = [user for user in users if _lives(user)]
        if alive and len(alive) == len(users):
            return False
        why_not = _leave(alive, was, write, switch)
        return bool(was) and not alive and not why_not


def _enter(me: dict[str, int], wanted: str, directory: Path, switch: Path) -> str:
    """Record this user, then set the switch, so that a crash in between leaves the old value on record.

    Returns why it could not be set, or an empty text.
    """
    try:
        with _record(directory) as (users, was, write):
            before = (list(users), was)
            write([*users, me], was or read_switch(switch))
            why_not = _set(switch, wanted)
            if why_not:
                write(*before)
            return why_not
    except OSError as error:
        return str(error)


def _exit(me: dict[str, int], directory: Path, switch: Path) -> str:
    try:
        with _record(directory) as (users, was, write):
            with suppress(ValueError):
                users.remove(me)
            return _leave(users, was, write, switch)
    except OSError as error:
        return str(error)


def mount_huge_tmpfs(path: Path, size_bytes: int) -> None:
    """Mount a tmpfs of huge pages for images that are kept in memory; idempotent.

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
    """Return True when a path is the mount point of a tmpfs with `huge=always`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        _, _, after = line.partition(" - ")
        if mount_point(line) == path.absolute() and after.startswith("tmpfs ") and "huge=always" in after:
            return True
    return False


_Users = list[dict[str, int]]
_Write = Callable[[_Users, str], None]


@contextmanager
def _record(directory: Path) -> Iterator[tuple[_Users, str, _Write]]:
    """Yield the users of the setting, what it was before the first, and a function that writes both; under a lock."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / _RECORD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        lock(fd)
        text = os.pread(fd, 1 << 20, 0)
        content: dict[str, Any] = json.loads(text) if text else {"users": [], "was": ""}

        def write(users: _Users, was: str) -> None:
            """Write both at once, padded with blanks: a truncation before it would leave an empty file after a kill."""
            text = json.dumps({"users": users, "was": was}).encode()
            os.pwrite(fd, text.ljust(os.fstat(fd).st_size), 0)

        yield content["users"], content["was"], write
    finally:
        os.close(fd)


def _leave(users: _Users, was: str, write: _Write, switch: Path) -> str:
    """Put the setting back when no user is left; return why it could not be, and keep the old value on record then."""
    why_not = _set(switch, was) if was and not users else ""
    write(users, "" if not users and not why_not else was)
    return why_not


def _set(switch: Path, value: str) -> str:
    """Set the switch; return why it could not be set, or an empty text."""
    try:
        switch.write_text(value)
    except OSError as error:
        return f"{switch} cannot be set to {value}: {error.strerror}"
    return ""


def _lives(user: dict[str, int]) -> bool:
    try:
        return proc.is_alive(user["pid"]) and proc.start_ticks(user["pid"]) == user["start_ticks"]
    except DriverError:
        return False
