"""Run hook programs in the replica's namespaces, root, working directory and cgroups, with its rights.

A hook can do nothing that the replica itself could not: it has the users, groups and capabilities of the replica's
first process, none where that lives in a user namespace of its own, and gains none by an exec. It gets the environment
that the replica was started with, not the driver's, which may hold secrets. Two things of a container cannot be
copied: its seccomp filter, so a hook may make system calls that the replica may not, and its label of AppArmor or
SELinux. What needs those belongs into the replica (engine `http`).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from restore_driver.engines.hooks import HookDetails, Note, ProcessRoot, ResumeState
from restore_driver.errors import DriverError, Reason
from restore_driver.host.capabilities import Rights
from restore_driver.host.namespaces import Entry, keep_open, open_entry
from restore_driver.host.process import Completed, run
from restore_driver.wire.replica_spec import ExecEngine

_SHOWN = 200
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ExecHooks:
    """Programs as hooks."""

    spec: ExecEngine

    def quiesce(self, process: ProcessRoot, deadline_s: float, note: Note) -> HookDetails:
        """Run the quiesce program to its end."""
        return _hook(self.spec.quiesce, process, deadline_s, Reason.QUIESCE_FAILED)

    def resume(self, process: ProcessRoot, deadline_s: float, state: ResumeState, note: Note) -> HookDetails:
        """Run the resume program to its end."""
        return _hook(self.spec.resume, process, deadline_s, Reason.RESUME_FAILED)


def _hook(argv: tuple[str, ...], process: ProcessRoot, deadline_s: float, reason: Reason) -> HookDetails:
    with ExitStack() as stack:
        try:
            entry = open_entry(process.host_pid, stack, cgroups=True)
            done = _run(argv, process, entry, stack, deadline_s=deadline_s, reason=reason)
        except DriverError as error:
            if error.reason is Reason.PLACEHOLDER_LOST:
                raise DriverError(Reason.REPLICA_LOST, f"process {process.host_pid} does not exist") from error
            raise
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverError(reason, f"{argv[0]} cannot be run in the replica: {error}") from error
    if done.exit_code != 0:
        said = done.output.strip()[-_SHOWN:]
        raise DriverError(reason, f"{' '.join(argv)} ended with exit code {done.exit_code}: {said}")
    return {"program": argv[0], "exit_code": 0}


def _run(  # noqa: PLR0913 - a command line: program, process, namespaces, limit, and what a failure means
    argv: tuple[str, ...], process: ProcessRoot, entry: Entry, stack: ExitStack, *, deadline_s: float, reason: Reason
) -> Completed:
    root_fd = keep_open(process.root, os.O_RDONLY | os.O_DIRECTORY, stack)
    cwd_fd = keep_open(Path(f"/proc/{process.host_pid}/cwd"), os.O_RDONLY | os.O_DIRECTORY, stack)
    rights, environment = Rights.of(process.host_pid), _environment(process.host_pid)

    def enter() -> None:
        """Enter the replica; from here on nothing may be imported: it would come from the replica's file system."""
        entry.enter()
        if os.geteuid() == 0:
            os.fchdir(root_fd)
            os.chroot(".")
            os.fchdir(cwd_fd)
            rights.take_on()
        else:
            os.fchdir(cwd_fd)
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    try:
        return run(argv, deadline_s=deadline_s, env=environment, enter=enter)
    except DriverError as error:
        if error.reason is not Reason.REQUEST_INVALID:
            raise
        raise DriverError(reason, f"{argv[0]} is not in the replica's file system", "name it there") from error


def _environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with."""
    environment = {"PATH": _PATH}
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        name, equals, value = os.fsdecode(entry).partition("=")
        if name and equals:
            environment[name] = value
    return environment
