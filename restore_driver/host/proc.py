"""What /proc says of processes: trees, start times, namespaces, PIDs as other namespaces see them."""

from __future__ import annotations

import os
from pathlib import Path

from restore_driver.errors import DriverError, Reason

PROC = Path("/proc")


def is_alive(pid: int) -> bool:
    """True for a process that runs or is stopped; a zombie is not alive."""
    try:
        return _stat_fields(pid)[0] not in ("Z", "X")
    except OSError:
        return False


def start_ticks(pid: int) -> int:
    """Start time in clock ticks since boot: with the PID it names one process, even after the PID is reused."""
    try:
        return int(_stat_fields(pid)[19])
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error


def is_same(pid: int, ticks: int) -> bool:
    """True while the process that had this PID and start time lives; a PID alone may be another's by now."""
    try:
        return is_alive(pid) and start_ticks(pid) == ticks
    except DriverError:
        return False


def children(pid: int) -> tuple[int, ...]:
    """Direct children of all threads of a process."""
    found: list[int] = []
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            found.extend(int(word) for word in (task / "children").read_text().split())
    except OSError:
        return tuple(found)
    return tuple(found)


def tree(pid: int) -> tuple[int, ...]:
    """A process and all its descendants, parents first."""
    found = [pid]
    for member in found:
        found.extend(children(member))
    return tuple(found)


def namespace_id(pid: int, kind: str) -> int:
    """Inode number of a namespace (`pid`, `mnt`, `net`, `ipc`, `uts`, `user`) of a process."""
    try:
        return os.stat(PROC / str(pid) / "ns" / kind).st_ino
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error


def pid_chain(pid: int) -> tuple[int, ...]:
    """The PID in each nested namespace, ours first, the process's own last (`NSpid`)."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return tuple(int(word) for word in line.split()[1:])
    raise DriverError(Reason.REPLICA_LOST, f"process {pid} shows no NSpid")


def members(pid_namespace: int) -> dict[int, int]:
    """Processes of a pid namespace itself (not of nested ones): their PID there -> their PID here."""
    found: dict[int, int] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.stat(entry / "ns" / "pid").st_ino == pid_namespace and is_alive(int(entry.name)):
                found[pid_chain(int(entry.name))[-1]] = int(entry.name)
        except (OSError, DriverError):
            continue  # it ended while we looked
    return found


def user_id(pid: int) -> int:
    """Real user id of a process; /proc/PID itself may belong to root though the process does not."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    raise DriverError(Reason.REPLICA_LOST, f"process {pid} shows no Uid")


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from `state` on: the name before may hold spaces and brackets."""
    text = (PROC / str(pid) / "stat").read_text()
    return text[text.rindex(")") + 2 :].split()
