"""Run CRIU's dump and restore, and convert its errors.

CRIU runs inside the replica's (dump) or the placeholder's (restore) own namespaces, so it sees its target as an
ordinary process in the same ones: no mount, net or pid namespace is dumped or created. Directories are passed as open
descriptors (`/proc/self/fd/N`), which lead out of the placeholder's mount namespace.

All other paths are the container's there, and CRIU is root: none of the container's files may be executed, loaded or
used as configuration. Without these options CRIU would read /etc/criu/default.conf (and run an action script of it),
load plugins from /usr/lib/criu, and run `iptables` by PATH; for its loader see `find.py`. Its cache of kernel features
(`kerndat.py`) lies in `work`.
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
    "--manage-cgroups=ignore",  # the driver joins the placeholder's cgroups itself, before it starts CRIU
    "--tcp-close",  # open connections end (their clients see end of file); listeners stay
    "--file-locks",
    "--ext-unix-sk",
    "--link-remap",
    "--skip-in-flight",
    "--no-default-config",
)
_GHOST_LIMIT = "1G"
"""Largest deleted file that is still open, whose content goes into the image. CRIU's own limit of 1 MiB refuses
replicas with ordinary temporary files or deleted shared memory. A larger one would make a slow image: its dump fails
with CRIU's own message."""
_ENVIRONMENT = {"PATH": "/proc/self/fd/none", "XDG_RUNTIME_DIR": ".", "LC_ALL": "C"}
"""The whole environment, without LD_*, GCONV_PATH and the like of the driver's own. No program is found by this PATH;
without any PATH the C library would search /bin. An `--unprivileged` CRIU looks for criu.kdat in XDG_RUNTIME_DIR, which
is `work`."""
_HARMLESS = ("Can't setup RLIMIT_NOFILE",)
"""Logged as errors where root lacks CAP_SYS_RESOURCE; CRIU continues."""
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
        """Return CRIU's arguments without the directories."""
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
    """Leave the tree stopped: offloaded memory is filled in afterwards."""

    def arguments(self) -> tuple[str, ...]:
        """Return CRIU's arguments without the directories."""
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
    *,
    deadline_s: float,
    kernel_cache: bytes | None = None,
) -> Completed:
    """Run CRIU within `entry`'s namespaces; it writes its log and statistics to `work`.

    `kernel_cache`, from `kerndat.make`, saves CRIU its own check of the kernel.

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
        argv += ["--libdir", at[0]]  # no plugins there; without this option CRIU loads the container's
        inherited = list(task.inherited.values()) if isinstance(task, Restore) else []

        def enter() -> None:
            if isinstance(task, Dump):
                guard.begin(entry.pid, deadline_s)
            entry.enter()
            require_procfs()
            if isinstance(task, Dump) and task.unprivileged_user_id is not None:
                become_with_capabilities(task.unprivileged_user_id)

        try:
            done = run(argv, deadline_s=deadline_s, env=_ENVIRONMENT, pass_fds=[*fds, *inherited], enter=enter)
        except NotStarted as error:
            raise DriverError(_FAILED[action], f"CRIU was not started: {error}", "see `forethaw doctor`") from error
    if done.exit_code != 0:
        raise explain(action, done, work)
    return done


def explain(action: str, done: Completed, work: Path) -> DriverError:
    """Return the first error of CRIU's log as a `DriverError`: the errors after it are its consequences."""
    log = work / _LOGS[action]
    try:
        text = log.read_text(errors="replace")
    except OSError:
        text = ""
    logged = re.findall(r"Error \([^)]*\): (.*)", text)
    errors = [line for line in logged if not any(harmless in line for harmless in _HARMLESS)]
    errors = errors or done.output.strip().splitlines()[-1:]
    first = errors[0].strip() if errors else f"exit code {done.exit_code} without a message"
    whole = " ".join(errors)
    if "No space left" in whole:
        return DriverError(Reason.DISK_FULL, f"CRIU: {first}", "free some space below the artifact")
    if action == "restore" and re.search(r"(Can't fork for \d+: File exists|Pid \d+ .*(taken|exists))", whole):
        return DriverError(Reason.PID_COLLISION, f"CRIU: {first}", "restore into an empty placeholder")
    return DriverError(_FAILED[action], f"CRIU: {first}", f"its whole log: {log}")
