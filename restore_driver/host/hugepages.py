"""Huge pages: for restored memory a system-wide switch, put back after; for images a tmpfs of huge pages.

CRIU's time is page faults and one thread's copy. With transparent huge pages `always` while it restores, a fault brings
2 MiB instead of 4 KiB. The kernel offers no such switch per process (PR_SET_THP_DISABLE only forbids; madvise needs
the restored code's help), so the system's is set, counted among several restores at once, and put back by the last.
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
    """The setting in force, the word in brackets."""
    return switch.read_text().split("[")[1].split("]")[0]


Warn = Callable[[str], None]
"""Told, in a sentence, what went wrong beside the work that is done."""


def _keep_quiet(sentence: str) -> None:
    """For those to whom what is yielded says enough."""


@contextmanager
def transparent_huge_pages(
    wanted: str, directory: Path, switch: Path = SWITCH, *, warn: Warn = _keep_quiet
) -> Iterator[bool]:
    """Sets the switch while the block runs; several blocks may overlap, the last one out puts it back.

    Yields True; False where the switch may not be set: all works without huge pages, only slower. A switch that can't
    be put back fails nobody's work either: `warn` is told, and `put_back_stale` tries again.
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
    """After a kill -9: forgets dead users and, if none is left, puts the setting back; True if it did."""
    if not (directory / _RECORD).exists():
        return False
    with _record(directory) as (users, was, write):
        alive = [user for user in users if _lives(user)]
        if alive and len(alive) == len(users):
            return False
        why_not = _leave(alive, was, write, switch)
        return bool(was) and not alive and not why_not


def _enter(me: dict[str, int], wanted: str, directory: Path, switch: Path) -> str:
    """Records this user, then sets the switch: whoever dies in between leaves what it was before. Why not, if not."""
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
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        _, _, after = line.partition(" - ")
        if mount_point(line) == path.absolute() and after.startswith("tmpfs ") and "huge=always" in after:
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
        lock(fd)
        text = os.pread(fd, 1 << 20, 0)
        content: dict[str, Any] = json.loads(text) if text else {"users": [], "was": ""}

        def write(users: _Users, was: str) -> None:
            """In one write, blanks over the rest: cut short before, it would be empty to whoever comes after a kill."""
            text = json.dumps({"users": users, "was": was}).encode()
            os.pwrite(fd, text.ljust(os.fstat(fd).st_size), 0)

        yield content["users"], content["was"], write
    finally:
        os.close(fd)


def _leave(users: _Users, was: str, write: _Write, switch: Path) -> str:
    """The last one out puts the switch back; why it can't be, if so, and then what it was stays on record."""
    why_not = _set(switch, was) if was and not users else ""
    write(users, "" if not users and not why_not else was)
    return why_not


def _set(switch: Path, value: str) -> str:
    """Sets the switch; why it can't be set, if so."""
    try:
        switch.write_text(value)
    except OSError as error:
        return f"{switch} can't be set to {value}: {error.strerror}"
    return ""


def _lives(user: dict[str, int]) -> bool:
    try:
        return proc.is_alive(user["pid"]) and proc.start_ticks(user["pid"]) == user["start_ticks"]
    except DriverError:
        return False
