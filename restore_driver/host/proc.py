"""What /proc says of processes: trees, start times, namespaces, PIDs as other namespaces see them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from restore_driver.errors import DriverError, Reason

PROC = Path("/proc")
_ENDED, _STOPPED = ("Z", "X"), ("T", "t")
_LOOKS = 10


def is_alive(pid: int) -> bool:
    """True for a process that runs or is stopped; a zombie is not alive. One whose first thread has ended, a zombie by
    itself, lives on in the others, and keeps its memory and its files."""
    if _state(PROC / str(pid)) not in _ENDED:
        return True
    return any(_state(PROC / str(pid) / "task" / task) not in _ENDED for task in _tasks(pid))


def is_busy(pid: int) -> bool:
    """True while a thread of a process is neither stopped nor ended: it may start processes."""
    return any(_state(PROC / str(pid) / "task" / task) not in (*_STOPPED, *_ENDED) for task in _tasks(pid))


def start_ticks(pid: int) -> int:
    """Start time in clock ticks since boot: with the PID it names one process, even after the PID is reused."""
    try:
        return int(_stat_fields(PROC / str(pid))[19])
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error


def is_same(pid: int, ticks: int) -> bool:
    """True while the process that had this PID and start time lives; a PID alone may be another's by now."""
    try:
        return is_alive(pid) and start_ticks(pid) == ticks
    except DriverError:
        return False


def identity(pid: int) -> tuple[int, int]:
    """PID and start time: what `is_same` takes."""
    return (pid, start_ticks(pid))


def children(pid: int) -> tuple[int, ...]:
    """Direct children of all threads of a process.

    A thread that ends while we look hands its children to another one, which we may have looked at before. So we look
    again until no thread ended meanwhile, or two looks agree; a process whose threads come and go all the time gets
    `_LOOKS` of them, and the last one counts.
    """
    found: tuple[int, ...] = ()
    for look in range(_LOOKS):
        before, (tasks, found) = found, _look_at_children(pid)
        if _tasks(pid) == tasks or (look and set(found) == set(before)):
            break
    return found


def _look_at_children(pid: int) -> tuple[list[str], tuple[int, ...]]:
    tasks, found = _tasks(pid), list[int]()
    for task in tasks:
        with suppress(OSError):
            text = (PROC / str(pid) / "task" / task / "children").read_text()
            found.extend(int(word) for word in text.split())
    return tasks, tuple(found)


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(PROC / str(pid) / "task")
    except OSError:
        return []


def tree(pid: int) -> tuple[int, ...]:
    """A process and all its descendants, parents first."""
    found = [pid]
    for member in found:
        found.extend(child for child in children(member) if child not in found)
    return tuple(found)


def namespace_id(pid: int, kind: str) -> int:
    """Inode number of a namespace (`pid`, `mnt`, `net`, `ipc`, `uts`, `user`) of a process."""
    try:
        return os.stat(PROC / str(pid) / "ns" / kind).st_ino
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error


def pid_chain(pid: int) -> tuple[int, ...]:
    """The PID in each nested namespace, ours first, the process's own last (`NSpid`).

    Raises:
        DriverError: REPLICA_LOST.
    """
    return tuple(int(word) for word in status(pid)["NSpid"].split())


def has_session(pid: int) -> bool:
    """Whether a process's session leader was of its own pid namespace (`NSsid`); of another's it sees only a 0.

    Raises:
        DriverError: REPLICA_LOST.
    """
    return int(status(pid)["NSsid"].split()[-1]) != 0


def members(pid_namespace: int) -> dict[int, int]:
    """Processes of a pid namespace itself (not of nested ones): their PID there -> their PID here.

    All of /proc is looked through. The tree below the namespace's PID 1 would be quicker on a node with thousands of
    processes, but those that entered from outside (an exec into the container, CRIU) have their parents there.
    """
    found: dict[int, int] = {}
    for name in os.listdir(PROC):  # no Path for each: it costs more than the look
        if not name.isdigit():
            continue
        try:
            if os.stat(f"{PROC}/{name}/ns/pid").st_ino == pid_namespace and is_alive(int(name)):
                found[pid_chain(int(name))[-1]] = int(name)
        except (OSError, DriverError):
            continue  # it ended while we looked
    return found


def user_id(pid: int) -> int:
    """Real user id of a process; /proc/PID itself may belong to root though the process does not.

    Raises:
        DriverError: REPLICA_LOST.
    """
    return int(status(pid)["Uid"].split()[0])


def status(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status by their names.

    Raises:
        DriverError: REPLICA_LOST.
    """
    try:
        text = (PROC / str(pid) / "status").read_text()
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error
    return {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}


def _state(process: Path) -> str:
    """One letter, as proc(5) has them; X for what is gone."""
    try:
        return _stat_fields(process)[0]
    except OSError:
        return "X"


def _stat_fields(process: Path) -> list[str]:
    """Fields of a process's or thread's `stat` from `state` on: the name before may hold spaces and brackets."""
    text = (process / "stat").read_text()
    return text[text.rindex(")") + 2 :].split()
