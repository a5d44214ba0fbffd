"""Hooks that are programs: run in the replica's namespaces, root and working directory, as its user.

They get the environment that the replica was started with, not the driver's, which may hold secrets.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from restore_driver.engines.target import Facts, Target
from restore_driver.errors import DriverError, Reason
from restore_driver.host.namespaces import keep_open, open_entry
from restore_driver.host.process import Completed, run
from restore_driver.replica_spec import ExecEngine

_SHOWN = 200
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def quiesce(spec: ExecEngine, target: Target, deadline_s: float) -> Facts:
    """The quiesce program, to its end."""
    return _hook(spec.quiesce, target, deadline_s, Reason.QUIESCE_FAILED)


def resume(spec: ExecEngine, target: Target, deadline_s: float) -> Facts:
    """The resume program, to its end."""
    return _hook(spec.resume, target, deadline_s, Reason.RESUME_FAILED)


@dataclass(frozen=True)
class _Identity:
    """Effective user and groups of a process, and the environment that it began with."""

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    environment: dict[str, str]

    @classmethod
    def of(cls, pid: int) -> _Identity:
        fields = {}
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            fields[name] = [int(word) for word in value.split()] if name in ("Uid", "Gid", "Groups") else []
        environment = {"PATH": _PATH}
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, equals, value = os.fsdecode(entry).partition("=")
            if name and equals:
                environment[name] = value
        return cls(fields["Uid"][1], fields["Gid"][1], tuple(fields["Groups"]), environment)

    def become(self) -> None:
        """Runs in a forked child; nothing that it starts can climb back."""
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.geteuid() == 0:
            os.setgroups(self.groups)
            os.setresgid(self.group_id, self.group_id, self.group_id)
            os.setresuid(self.user_id, self.user_id, self.user_id)


def _hook(argv: tuple[str, ...], target: Target, deadline_s: float, reason: Reason) -> Facts:
    try:
        done = _run(argv, target, deadline_s)
    except DriverError as error:
        if error.reason is Reason.PLACEHOLDER_LOST:
            raise DriverError(Reason.REPLICA_LOST, f"process {target.host_pid} does not exist") from error
        if error.reason is Reason.REQUEST_INVALID:
            raise DriverError(reason, f"{argv[0]} is not in the replica's file system", "name it there") from error
        raise
    except (OSError, subprocess.SubprocessError) as error:
        raise DriverError(reason, f"{argv[0]} can't be run in the replica: {error}") from error
    if done.exit_code != 0:
        said = done.output.strip()[-_SHOWN:]
        raise DriverError(reason, f"{' '.join(argv)} ended with exit code {done.exit_code}: {said}")
    return {"program": argv[0], "exit_code": 0}


def _run(argv: tuple[str, ...], target: Target, deadline_s: float) -> Completed:
    with ExitStack() as stack:
        entry = open_entry(target.host_pid, stack)
        root_fd = keep_open(target.root, os.O_RDONLY | os.O_DIRECTORY, stack)
        cwd_fd = keep_open(Path(f"/proc/{target.host_pid}/cwd"), os.O_RDONLY | os.O_DIRECTORY, stack)
        identity = _Identity.of(target.host_pid)

        def enter() -> None:
            entry.enter()
            if os.geteuid() == 0:
                os.fchdir(root_fd)
                os.chroot(".")
            os.fchdir(cwd_fd)
            identity.become()

        return run(argv, deadline_s=deadline_s, env=identity.environment, enter=enter)
