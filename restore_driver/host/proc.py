"""Read /proc: process trees, start times, namespaces, and PIDs in nested namespaces."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from restore_driver.errors import DriverError, Reason

PROC = Path("/proc")
_ENDED, _STOPPED = ("Z", "X"), ("T", "t")
_READINGS = 10


def is_alive(pid: int) -> bool:
    """Return True for a process that runs or is stopped, and False for a zombie.

    A process whose first thread has ended is shown as a zombie, but its other threads keep its memory and its files.
    """
    if _state(PROC / str(pid)) not in _ENDED:
        return True
    return any(_state(PROC / str(pid) / "task" / task) not in _ENDED for task in _tasks(pid))


def is_busy(pid: int) -> bool:
    """Return True while a thread of a process is neither stopped nor ended: it may fork."""
    return any(_state(PROC / str(pid) / "task" / task) not in (*_STOPPED, *_ENDED) for task in _tasks(pid))


def start_ticks(pid: int) -> int:
    """Return the start time in clock ticks since boot: with the PID it names one process, even after a PID is reused.

    Raises:
        DriverError: REPLICA_LOST when the process does not exist.
    """
    try:
        return int(_stat_fields(PROC / str(pid))[19])
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error


def is_same(pid: int, ticks: int) -> bool:
    """Return True while the process of this PID and start time lives; the PID alone may be reused."""
    try:
        return is_alive(pid) and start_ticks(pid) == ticks
    except DriverError:
        return False


def identity(pid: int) -> tuple[int, int]:
    """Return PID and start time, the arguments of `is_same`.

    Raises:
        DriverError: REPLICA_LOST when the process does not exist.
    """
    return (pid, start_ticks(pid))


def children(pid: int) -> tuple[int, ...]:
    """Return the direct children of all threads of a process.

    A thread that ends during the reading passes its children to another thread, which may have been read before. So
    the reading is repeated until no thread ended meanwhile, or two readings agree; for a process whose threads start
    and end all the time, the last of `_READINGS` counts.
    """
    found: tuple[int, ...] = ()
    for reading in range(_READINGS):
        before, (tasks, found) = found, _read_children(pid)
        if _tasks(pid) == tasks or (reading and set(found) == set(before)):
            break
    return found


def _read_children(pid: int) -> tuple[list[str], tuple[int, ...]]:
    tasks, found = _tasks(pid), list[int]()
    for task in tasks:
        with suppress(OSError):
            text = (PROC / str(pid) / "task" / task / "children").read_text()
            found.extend(int(word) for word in text.split())
    return tasks, tuple(found)


def _tasks(pid: int) -> list[str]:
    try:
        return [task.name for task in (PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []


def tree(pid: int) -> tuple[int, ...]:
    """Return a process and all its descendants, parents first."""
    found = [pid]
    for member in found:
        found.extend(child for child in children(member) if child not in found)
    return tuple(found)


def namespace_id(pid: int, kind: str) -> int:
    """Return the inode number of a namespace (`pid`, `mnt`, `net`, `ipc`, `uts`, `user`) of a process.

    Raises:
        DriverError: REPLICA_LOST when the process does not exist.
    """
    try:
        return (PROC / str(pid) / "ns" / kind).stat().st_ino
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error


def pid_chain(pid: int) -> tuple[int, ...]:
    """Return the PID in each nested namespace, ours first, the process's own last (`NSpid`).

    Raises:
        DriverError: REPLICA_LOST.
    """
    return tuple(int(word) for word in status(pid)["NSpid"].split())


def has_session(pid: int) -> bool:
    """Return True when a process's session leader was of its own pid namespace (`NSsid` is 0 otherwise).

    Raises:
        DriverError: REPLICA_LOST.
    """
    return int(status(pid)["NSsid"].split()[-1]) != 0


def members(pid_namespace: int) -> dict[int, int]:
    """Return the processes of a pid namespace itself (not of nested ones): PID there -> PID here.

    All of /proc is read. The tree below the namespace's PID 1 would be faster on a node with thousands of processes,
    but processes that entered from outside (an exec into the container, CRIU) have their parents outside.
    """
    found: dict[int, int] = {}
    for name in os.listdir(PROC):  # noqa: PTH208 - a Path for each would take longer than the reading
        if not name.isdigit():
            continue
        try:
            if os.stat(f"{PROC}/{name}/ns/pid").st_ino == pid_namespace and is_alive(int(name)):  # noqa: PTH116 - as above
                found[pid_chain(int(name))[-1]] = int(name)
        except (OSError, DriverError):
            continue  # it has ended meanwhile
    return found


def user_id(pid: int) -> int:
    """Return the real user id of a process; /proc/PID itself may belong to root though the process does not.

    Raises:
        DriverError: REPLICA_LOST.
    """
    return int(status(pid)["Uid"].split()[0])


def status(pid: int) -> dict[str, str]:
    """Return the lines of /proc/PID/status by name.

    Raises:
        DriverError: REPLICA_LOST.
    """
    try:
        text = (PROC / str(pid) / "status").read_text()
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error
    return {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}


def _state(process: Path) -> str:
    """Return the state's letter of proc(5); X for a process or thread that does not exist."""
    try:
        return _stat_fields(process)[0]
    except OSError:
        return "X"


def _stat_fields(process: Path) -> list[str]:
    """Return the fields of a `stat` from `state` on: the name before it may hold spaces and brackets."""
    text = (process / "stat").read_text()
    return text[text.rindex(")") + 2 :].split()
