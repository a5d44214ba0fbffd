"""Enter the namespaces of a replica or a placeholder and run a program there.

`Entry` opens everything that a program needs *before* the switch: the namespace files, and the directories that it
will reach as `/proc/self/fd/N` once the host's mounts are out of sight. The program's process is a grandchild: only
a child born after setns(2) is a member of the pid namespace. Both die with the driver, and share a process group.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from restore_driver.errors import DriverError, Reason
from restore_driver.host.fork import fork
from restore_driver.host.libc import last_error, libc
from restore_driver.host.process import close_all_but, die_with_parent

KINDS = {"uts": 0x04000000, "ipc": 0x08000000, "net": 0x40000000, "pid": 0x20000000, "mnt": 0x00020000}
"""Namespaces that are entered, in this order, with their CLONE_NEW* flags; not cgroup (the driver joins the
placeholder's cgroups by name instead) and not user (restoring needs the privileges of the initial one)."""

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_NO_CONTROLLERS = ("rw", "ro", "xattr", "clone_children", "release_agent")
"""Mount options of a v1 hierarchy that are listed among its controllers."""


def setns(fd: int, kind: int) -> None:
    """Enter a namespace, as Python itself can from 3.12 on; `kind` is a CLONE_NEW* flag.

    Raises:
        OSError: any error of setns(2).
    """
    if libc.setns(fd, kind) != 0:
        raise last_error(what="setns")


def unshare(flags: int) -> None:
    """Enter new namespaces, as Python itself can from 3.12 on; `flags` is a mask of CLONE_NEW* flags.

    Raises:
        OSError: any error of unshare(2).
    """
    if libc.unshare(flags) != 0:
        raise last_error(what="unshare")


@dataclass(frozen=True)
class Entry:
    """Open descriptors of a process's namespaces, only of those that differ from ours, and of its cgroups.

    With `last_pid` (a descriptor of ns_last_pid and a PID), the PIDs that the kernel hands out next in the entered
    pid namespace begin above that one, so that the program and its helpers take none that a restore needs.
    """

    pid: int
    """PID of the process in this pid namespace."""
    namespaces: tuple[tuple[int, int], ...]
    cgroups: tuple[int, ...] = ()
    last_pid: tuple[int, int] | None = None
    not_joined: tuple[str, ...] = ()
    """Its cgroups that cannot be seen from here, as in /proc/PID/cgroup: an entering process stays in ours there."""

    def enters(self, kind: str) -> bool:
        """Return True when the process's namespace of this kind (of `KINDS`) differs from ours."""
        return KINDS[kind] in (flag for _, flag in self.namespaces)

    def enter(self) -> None:
        """Join cgroups and namespaces within a forked child, fork once more, and return in the grandchild.

        The process in between stays only to pass on the exit status: its descriptors above standard error are closed,
        since a parent waits for the end of file of some.

        Raises:
            OSError: any error of setns(2) or fork(2), or of joining a cgroup.
        """
        for fd in self.cgroups:
            os.write(fd, b"0")
        for fd, kind in self.namespaces:
            setns(fd, kind)
        if self.last_pid is not None:
            self._raise_last_pid(*self.last_pid)
        child = fork()
        if child:
            close_all_but(())
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                os.kill(os.getpid(), os.WTERMSIG(status))
            os._exit(os.waitstatus_to_exitcode(status))
        die_with_parent()

    @staticmethod
    def _raise_last_pid(fd: int, pid: int) -> None:
        """Set ns_last_pid by a child that is a member of the namespace: the kernel sets the writer's own."""
        child = fork()
        if not child:
            number = errno.EIO
            try:
                os.write(fd, str(pid).encode())
                number = 0
            except OSError as error:
                number = error.errno or number
            finally:
                os._exit(number)
        number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if number != 0:
            raise OSError(number, os.strerror(abs(number)), str(_LAST_PID))


def open_entry(pid: int, stack: ExitStack, *, cgroups: bool = False, above_pid: int | None = None) -> Entry:
    """Open the namespaces (and with `cgroups`, the cgroups) of a process; the stack closes them.

    `above_pid` applies to a placeholder's own pid namespace only; ours is never changed.

    Raises:
        DriverError: PLACEHOLDER_LOST when the process is gone; REQUEST_INVALID when it has cgroups of its own and none
            can be joined: a program started there would be accounted to our cgroup, and be killed with it.
    """
    try:
        namespaces = []
        for kind, flag in KINDS.items():
            theirs, ours = Path(f"/proc/{pid}/ns/{kind}"), Path(f"/proc/self/ns/{kind}")
            if theirs.stat().st_ino != ours.stat().st_ino:
                namespaces.append((keep_open(theirs, os.O_RDONLY, stack), flag))
        files, unseen = _cgroups_of(pid) if cgroups else ((), ())
        joined = [keep_open(path, os.O_WRONLY, stack) for path in files]
    except FileNotFoundError as error:
        raise DriverError(Reason.PLACEHOLDER_LOST, f"process {pid} does not exist") from error
    if unseen and not joined:
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"none of the cgroups of process {pid} can be seen here ({', '.join(unseen)})",
            "give the driver the host's cgroup tree: mount it at /sys/fs/cgroup, with the host's cgroup namespace",
        )
    last_pid = None
    if above_pid is not None and KINDS["pid"] in (kind for _, kind in namespaces):
        last_pid = (keep_open(_LAST_PID, os.O_WRONLY, stack), above_pid)
    return Entry(pid, tuple(namespaces), tuple(joined), last_pid, unseen)


def keep_open(path: Path, flags: int, stack: ExitStack) -> int:
    """Open a path with close-on-exec; the stack closes it.

    Raises:
        OSError: any error of open(2).
    """
    fd = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _cgroups_of(pid: int) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the `cgroup.procs` of the cgroups that a process is in and we are not, and those that cannot be seen.

    Both v2 and v1's named and controller hierarchies count.
    """
    mounts, ours = _cgroup_mounts(), _cgroup_lines("self")
    found, unseen = [], []
    for controllers, path in _cgroup_lines(pid).items():
        if path == ours.get(controllers):
            continue
        directory = _seen(path, mounts.get(controllers, ()))
        if directory is None:
            unseen.append(f"{controllers or 'v2'}:{path}")
        else:
            found.append(directory / "cgroup.procs")
    return tuple(found), tuple(unseen)


def _seen(path: str, mounts: Iterable[tuple[PurePosixPath, Path]]) -> Path | None:
    """Return where a cgroup is mounted; its path begins with `..` when it is outside our cgroup namespace's root."""
    pure = PurePosixPath(path)
    for root, point in mounts:
        if ".." not in pure.parts and pure.is_relative_to(root):
            directory = point / pure.relative_to(root)
            if (directory / "cgroup.procs").exists():
                return directory
    return None


def _cgroup_lines(pid: int | str) -> dict[str, str]:
    """Return controllers as in /proc/PID/cgroup ("" for v2) -> path within their hierarchy."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}


def _cgroup_mounts() -> dict[str, list[tuple[PurePosixPath, Path]]]:
    """Return controllers as in /proc/PID/cgroup -> (root of the mounted part of the hierarchy, mount point)."""
    mounts: dict[str, list[tuple[PurePosixPath, Path]]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        names = [word for word in options.split(",") if not word.startswith(_NO_CONTROLLERS)]
        root, point = before.split()[3:5]
        mounts.setdefault(",".join(names) if kind == "cgroup" else "", []).append((PurePosixPath(root), Path(point)))
    return mounts
