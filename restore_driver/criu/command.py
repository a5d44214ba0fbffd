"""What CRIU is asked, and what its answer means.

CRIU runs inside the replica's (dump) or the placeholder's (restore) own namespaces, so it sees its target as an
ordinary process beside it: no mount, net or pid namespace is dumped or made anew. Directories travel as open
descriptors (`/proc/self/fd/N`), which lead out of the placeholder's mount namespace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from restore_driver.criu.find import Criu
from restore_driver.errors import DriverError, Reason
from restore_driver.host.capabilities import become_with_capabilities
from restore_driver.host.namespaces import Entry, keep_open
from restore_driver.host.process import Completed, run

_COMMON = (
    "--manage-cgroups=ignore",  # the driver joins the placeholder's cgroups itself, before CRIU is born
    "--tcp-close",  # open connections end (their clients see end of file); listeners stay
    "--file-locks",
    "--ext-unix-sk",
    "--link-remap",
    "--skip-in-flight",
)
_HARMLESS = ("Can't setup RLIMIT_NOFILE",)
"""Logged as errors where root lacks CAP_SYS_RESOURCE; CRIU goes on."""
_LOGS = {"dump": "dump.log", "restore": "restore.log"}


@dataclass(frozen=True)
class Dump:
    """One `criu dump` of the process `root_pid` (as its own pid namespace numbers it)."""

    root_pid: int
    shell_job: bool = False
    unprivileged_user_id: int | None = None
    """Dump as this user, for non-root replicas on hosts whose root lacks CAP_SYS_RESOURCE."""

    def arguments(self) -> tuple[str, ...]:
        """CRIU's own arguments, the directories excepted."""
        options = ["dump", "--tree", str(self.root_pid), "--leave-stopped", *_COMMON]
        if self.shell_job:
            options.append("--shell-job")
        if self.unprivileged_user_id is not None:
            options.append("--unprivileged")
        return tuple(options)


@dataclass(frozen=True)
class Restore:
    """One `criu restore`; `inherited` maps CRIU's name of an external descriptor to one of ours."""

    shell_job: bool = False
    inherited: Mapping[str, int] = field(default_factory=dict)

    def arguments(self) -> tuple[str, ...]:
        """CRIU's own arguments, the directories excepted."""
        options = ["restore", "--restore-detached", *_COMMON]
        if self.shell_job:
            options.append("--shell-job")
        for name, fd in self.inherited.items():
            options += ["--inherit-fd", f"fd[{fd}]:{name}"]
        return tuple(options)


def call(criu: Criu, task: Dump | Restore, entry: Entry, images: Path, work: Path, deadline_s: float) -> Completed:
    """Runs CRIU within `entry`'s namespaces; `work` gets its log and statistics.

    Raises:
        DriverError: CRIU_DUMP_FAILED, CRIU_RESTORE_FAILED or PID_COLLISION with the first error of CRIU's log;
            DISK_FULL; DEADLINE_EXCEEDED with its process group killed.
    """
    action = "dump" if isinstance(task, Dump) else "restore"
    with ExitStack() as stack:
        fds = [keep_open(path, os.O_RDONLY | os.O_DIRECTORY, stack) for path in (criu.directory, images, work)]
        at = [f"/proc/self/fd/{fd}" for fd in fds]
        argv = [*criu.argv_at(at[0]), *task.arguments(), "--images-dir", at[1], "--work-dir", at[2]]
        argv += ["--log-file", _LOGS[action], "-v2", "--display-stats"]
        handed_on = list(task.inherited.values()) if isinstance(task, Restore) else []

        def enter() -> None:
            entry.enter()
            if isinstance(task, Dump) and task.unprivileged_user_id is not None:
                become_with_capabilities(task.unprivileged_user_id)

        done = run(argv, deadline_s=deadline_s, pass_fds=[*fds, *handed_on], enter=enter)
    if done.exit_code != 0:
        raise explain(action, done, work)
    return done


def explain(action: str, done: Completed, work: Path) -> DriverError:
    """The first error of CRIU's log as one sentence: the ones after it are its consequences."""
    log = work / _LOGS[action]
    try:
        text = log.read_text(errors="replace")
    except OSError:
        text = ""
    said = re.findall(r"Error \([^)]*\): (.*)", text)
    errors = [line for line in said if not any(harmless in line for harmless in _HARMLESS)]
    errors = errors or done.output.strip().splitlines()[-1:]
    first = errors[0].strip() if errors else f"exit code {done.exit_code}, and it said nothing"
    whole = " ".join(errors)
    if "No space left" in whole:
        return DriverError(Reason.DISK_FULL, f"CRIU: {first}", "free some space below the artifact")
    if action == "restore" and re.search(r"(Can't fork for \d+: File exists|Pid \d+ .*(taken|exists))", whole):
        return DriverError(Reason.PID_COLLISION, f"CRIU: {first}", "restore into an empty placeholder")
    reason = Reason.CRIU_DUMP_FAILED if action == "dump" else Reason.CRIU_RESTORE_FAILED
    return DriverError(reason, f"CRIU: {first}", f"its whole log: {log}")
