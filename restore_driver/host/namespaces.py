"""Entering a replica's or placeholder's namespaces, and running a program there.

`Entry` opens everything that a program needs *before* the switch: the namespace files, and the directories that it
will reach as `/proc/self/fd/N` once the host's mounts are out of sight. The program's process is a grandchild: only
a child born after setns(2) is a member of the pid namespace. Both die with the driver, and share a process group.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from restore_driver.errors import DriverError, Reason

KINDS = {"uts": 0x04000000, "ipc": 0x08000000, "net": 0x40000000, "pid": 0x20000000, "mnt": 0x00020000}
"""Namespaces that are entered, in this order, with their CLONE_NEW* flags; not cgroup (the driver joins the
placeholder's cgroups by name instead) and not user (restoring needs the privileges of the first one)."""

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int, kind: int) -> None:
    """setns(2), which Python itself offers from 3.12 on.

    Raises:
        OSError: as the kernel says.
    """
    if _libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def unshare(flags: int) -> None:
    """unshare(2), which Python itself offers from 3.12 on.

    Raises:
        OSError: as the kernel says.
    """
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")


@dataclass(frozen=True)
class Entry:
    """Open descriptors of a process's namespaces, only of those that differ from ours, and of its cgroups.

    With `last_pid` (a descriptor of ns_last_pid and a PID), the PIDs that the kernel hands out next in the entered
    pid namespace begin above that one, so that the program and its helpers take none that a restore needs.
    """

    namespaces: tuple[tuple[int, int], ...]
    cgroups: tuple[int, ...] = ()
    last_pid: tuple[int, int] | None = None

    def enter(self) -> None:
        """Runs in a forked child: joins cgroups and namespaces, forks once more, and returns in the grandchild.

        The middle process stays only to pass on the exit status: its copies of all descriptors past standard
        error are closed, since a parent waits for the end of file of some.
        """
        for fd in self.cgroups:
            os.write(fd, b"0")
        for fd, kind in self.namespaces:
            setns(fd, kind)
        if self.last_pid is not None:
            self._raise_last_pid(*self.last_pid)
        child = os.fork()
        if child:
            os.closerange(3, 4096)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                os.kill(os.getpid(), os.WTERMSIG(status))
            os._exit(os.waitstatus_to_exitcode(status))
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    @staticmethod
    def _raise_last_pid(fd: int, pid: int) -> None:
        """A first child, itself a member of the namespace, raises the mark; the kernel goes by who writes."""
        child = os.fork()
        if not child:
            os.write(fd, str(pid).encode())
            os._exit(0)
        os.waitpid(child, 0)


def open_entry(pid: int, stack: ExitStack, *, cgroups: bool = False, above_pid: int | None = None) -> Entry:
    """Opens the namespaces (and, if asked, the cgroups) of a process; the stack closes them again.

    `above_pid` is for a placeholder's own pid namespace only: ours is left as it is.

    Raises:
        DriverError: PLACEHOLDER_LOST when the process is gone.
    """
    try:
        namespaces = []
        for kind, flag in KINDS.items():
            theirs, ours = Path(f"/proc/{pid}/ns/{kind}"), Path(f"/proc/self/ns/{kind}")
            if os.stat(theirs).st_ino != os.stat(ours).st_ino:
                namespaces.append((keep_open(theirs, os.O_RDONLY, stack), flag))
        joined = [keep_open(path, os.O_WRONLY, stack) for path in cgroup_files(pid)] if cgroups else []
    except FileNotFoundError as error:
        raise DriverError(Reason.PLACEHOLDER_LOST, f"process {pid} does not exist") from error
    last_pid = None
    if above_pid is not None and KINDS["pid"] in (kind for _, kind in namespaces):
        last_pid = (keep_open(_LAST_PID, os.O_WRONLY, stack), above_pid)
    return Entry(tuple(namespaces), tuple(joined), last_pid)


def keep_open(path: Path, flags: int, stack: ExitStack) -> int:
    """Opens a path and has the stack close it."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def cgroup_files(pid: int) -> tuple[Path, ...]:
    """The `cgroup.procs` (v2, and v1's named and controller hierarchies) of the cgroups that a process is in."""
    roots = _cgroup_mounts()
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = roots.get(controllers)
        if root is not None and path != "/" and (root / path[1:] / "cgroup.procs").exists():
            found.append(root / path[1:] / "cgroup.procs")
    return tuple(found)


def _cgroup_mounts() -> dict[str, Path]:
    """Controllers as /proc/PID/cgroup writes them ("" for v2) -> mount point."""
    roots: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            roots[""] = Path(before.split()[4])
        elif kind == "cgroup":
            names = [word for word in options.split(",") if word not in ("rw", "ro") and not word.startswith("xattr")]
            roots[",".join(names)] = Path(before.split()[4])
    return roots
