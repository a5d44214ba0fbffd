"""CRIU: is there one that runs, and what does its own check say."""

from __future__ import annotations

import os
import subprocess

from restore_driver.criu.find import Criu
from restore_driver.doctor.findings import Answer, broken, missing, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.doctor.probe import own_mounts
from restore_driver.errors import DriverError, Reason
from restore_driver.host.process import Completed, run

_GOOD = "Looks good."
_GOOD_BUT = "Looks good but some kernel features are missing"
_HINT = "boot a kernel with CONFIG_CHECKPOINT_RESTORE and what is named, and give root its capabilities"


def program(machine: Machine) -> Answer:
    """Found, run, and new enough."""
    found = machine.criu
    if isinstance(found, DriverError):
        verdict = missing if found.reason is Reason.CRIU_MISSING else broken
        return verdict(found.detail, found.hint or "see whether it runs by hand: `criu --version`")
    return ok(f"{found.directory / found.name} is CRIU {'.'.join(map(str, found.version))}")


def own_check(machine: Machine) -> Answer:
    """`criu check` proves the kernel's features, no more; its exit code alone proves nothing."""
    found = machine.criu
    if isinstance(found, DriverError):
        return missing("not run: there is no usable CRIU", "see `criu` above")
    try:
        return judge(_run_check(found, machine.patience_s))
    except subprocess.SubprocessError:
        return broken("a mount namespace of its own can't be made for it", "see `namespaces` below")


def judge(done: Completed) -> Answer:
    """Exit code and text together; what it complains of is passed on even when it ends well."""
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    complaints = "; ".join(line for line in lines if line.startswith(("Error", "Warn")))
    if any(line.startswith(_GOOD_BUT) for line in lines):
        named = complaints or "it names none"
        return warning(
            f"some optional kernel features are missing: {named}", "nothing, unless a dump names one of them"
        )
    if done.exit_code != 0 or _GOOD not in lines:
        said = complaints or "; ".join(lines) or "nothing"
        return broken(f"`criu check` ended with {done.exit_code} and said: {said}", _HINT)
    if complaints:
        return warning(f"it looks good, but it said: {complaints}", "nothing, unless a dump or a restore names it")
    return ok(_GOOD)


def _run_check(criu: Criu, deadline_s: float) -> Completed:
    """With a /run of its own: CRIU looks afresh, not at its cache there, and what it writes there is gone after.

    So it must be reached without /run: by its open directory.
    """
    home = os.open(criu.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        argv = [*criu.argv_at(f"/proc/self/fd/{home}"), "check"]
        return run(argv, deadline_s=deadline_s, enter=own_mounts, pass_fds=[home])
    finally:
        os.close(home)
