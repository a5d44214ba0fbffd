"""What CRIU is asked, and what its answer means.

CRIU runs inside the replica's (dump) or the placeholder's (restore) own namespaces, so it sees its target as an
ordinary process beside it: no mount, net or pid namespace is dumped or made anew. Directories travel as open
descriptors (`/proc/self/fd/N`), which lead out of the placeholder's mount namespace.

All other paths are the container's there, and CRIU is root: of its files nothing may be executed, loaded or obeyed.
CRIU would read /etc/criu/default.conf (an action script in it is run), load plugins from /usr/lib/criu, and run
`iptables` by PATH; its loader, see `find.py`. What it knows of the kernel (`kerndat.py`) lies in `work`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from restore_driver.criu import guard
from restore_driver.criu.find import Criu
from restore_driver.criu.kerndat import kept_in
from restore_driver.errors import DriverError, Reason
from restore_driver.host.capabilities import become_with_capabilities
from restore_driver.host.mounts import require_procfs
from restore_driver.host.namespaces import Entry, keep_open
from restore_driver.host.process import Completed, NotStarted, run

_COMMON = (
    "--manage-cgroups=ignore",  # the driver joins the placeholder's cgroups itself, before CRIU is born
    "--tcp-close",  # open connections end (their clients see end of file); listeners stay
    "--file-locks",
    "--ext-unix-sk",
    "--link-remap",
    "--skip-in-flight",
    "--no-default-config",
)
_GHOST_LIMIT = "1G"
"""Of one deleted file that is still open, whose content then goes into the image. CRIU's own limit of 1 MiB refuses a
replica with a temporary file or a deleted shared memory of any use. One that is larger than this would make a slow
image and is better found out: its dump fails with CRIU's own words."""
_ENVIRONMENT = {"PATH": "/proc/self/fd/none", "XDG_RUNTIME_DIR": ".", "LC_ALL": "C"}
"""All of it: no LD_*, GCONV_PATH or the like of whoever started the driver; nothing is found by this PATH, and without
any the C library would look into /bin. An `--unprivileged` CRIU looks for criu.kdat in XDG_RUNTIME_DIR: in `work`."""
_HARMLESS = ("Can't setup RLIMIT_NOFILE",)
"""Logged as errors where root lacks CAP_SYS_RESOURCE; CRIU goes on."""
_LOGS = {"dump": "dump.log", "restore": "restore.log"}
_FAILED = {"dump": Reason.CRIU_DUMP_FAILED, "restore": Reason.CRIU_RESTORE_FAILED}


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
        options += ["--ghost-limit", _GHOST_LIMIT]
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
    stopped: bool = False
    """Leave the tree stopped: part of its memory is still to come."""

    def arguments(self) -> tuple[str, ...]:
        """CRIU's own arguments, the directories excepted."""
        options = ["restore", "--restore-detached", *_COMMON]
        if self.stopped:
            options.append("--leave-stopped")
        if self.shell_job:
            options.append("--shell-job")
        for name, fd in self.inherited.items():
            options += ["--inherit-fd", f"fd[{fd}]:{name}"]
        return tuple(options)


def call(
    criu: Criu,
    task: Dump | Restore,
    entry: Entry,
    images: Path,
    work: Path,
    deadline_s: float,
    kernel_cache: bytes | None = None,
) -> Completed:
    """Runs CRIU within `entry`'s namespaces; `work` gets its log and statistics.

    `kernel_cache` is what `kerndat.make` made, and saves CRIU its look at the kernel.

    Raises:
        DriverError: CRIU_DUMP_FAILED, CRIU_RESTORE_FAILED or PID_COLLISION with the first error of CRIU's log;
            DISK_FULL; DEADLINE_EXCEEDED with its process group killed; CRIU_MISSING for one without libraries of its
            own that would enter another mount namespace.
    """
    if entry.enters("mnt"):
        criu.require_own_libraries()
    action = "dump" if isinstance(task, Dump) else "restore"
    with ExitStack() as stack:
        fds = [keep_open(path, os.O_RDONLY | os.O_DIRECTORY, stack) for path in (criu.directory, images, work)]
        at = [f"/proc/self/fd/{fd}" for fd in fds]
        stack.enter_context(kept_in(work, kernel_cache))
        argv = [*criu.argv_at(at[0]), *task.arguments(), "--images-dir", at[1], "--work-dir", at[2]]
        argv += ["--log-file", _LOGS[action], "-v2", "--display-stats"]
        argv += ["--libdir", at[0]]  # no plugins there; without this option CRIU takes the container's
        handed_on = list(task.inherited.values()) if isinstance(task, Restore) else []

        def enter() -> None:
            if isinstance(task, Dump):
                guard.begin(entry.pid, deadline_s)
            entry.enter()
            require_procfs()
            if isinstance(task, Dump) and task.unprivileged_user_id is not None:
                become_with_capabilities(task.unprivileged_user_id)

        try:
            done = run(argv, deadline_s=deadline_s, env=_ENVIRONMENT, pass_fds=[*fds, *handed_on], enter=enter)
        except NotStarted as error:
            raise DriverError(_FAILED[action], f"CRIU was not started: {error}", "see `forethaw doctor`") from error
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
    return DriverError(_FAILED[action], f"CRIU: {first}", f"its whole log: {log}")
