"""Check that a usable CRIU is installed, and run its own check of the kernel."""

from __future__ import annotations

import os

from restore_driver.criu.find import Criu
from restore_driver.doctor.findings import Answer, broken, missing, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.doctor.probe import own_mounts
from restore_driver.errors import DriverError, Reason
from restore_driver.host.process import Completed, NotStarted, run

_GOOD = "Looks good."
_GOOD_BUT = "Looks good but some kernel features are missing"
_HINT = "boot a kernel with CONFIG_CHECKPOINT_RESTORE and the named features, and give root its capabilities"


def program(machine: Machine) -> Answer:
    """Check that CRIU is found, runs and is new enough."""
    found = machine.criu
    if isinstance(found, DriverError):
        verdict = missing if found.reason is Reason.CRIU_MISSING else broken
        return verdict(found.detail, found.hint or "run it by hand: `criu --version`")
    return ok(f"{found.directory / found.name} is CRIU {'.'.join(map(str, found.version))}")


def own_check(machine: Machine) -> Answer:
    """Run `criu check`, which proves kernel features only; its exit code must be read with its text."""
    found = machine.criu
    if isinstance(found, DriverError):
        return missing("not run: there is no usable CRIU", "see `criu` above")
    try:
        return judge(_run_check(found, machine.patience_s))
    except NotStarted:
        return broken("a mount namespace of its own cannot be made for it", "see `namespaces` below")


def judge(done: Completed) -> Answer:
    """Judge exit code and text of `criu check` together; its complaints are reported even if it succeeds."""
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    complaints = "; ".join(line for line in lines if line.startswith(("Error", "Warn")))
    if any(line.startswith(_GOOD_BUT) for line in lines):
        named = complaints or "none is named"
        return warning(
            f"some optional kernel features are missing: {named}", "nothing, unless a dump names one of them"
        )
    if done.exit_code != 0 or _GOOD not in lines:
        text = complaints or "; ".join(lines) or "nothing"
        return broken(f"`criu check` ended with {done.exit_code} and printed: {text}", _HINT)
    if complaints:
        return warning(f"it looks good, but it printed: {complaints}", "nothing, unless a dump or a restore names it")
    return ok(_GOOD)


def _run_check(criu: Criu, deadline_s: float) -> Completed:
    """Run it with a /run of its own: CRIU does not use its cache there, and what it writes there is dropped.

    Since CRIU may lie below /run, it is run by its open directory.
    """
    home = os.open(criu.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        argv = [*criu.argv_at(f"/proc/self/fd/{home}"), "check"]
        return run(argv, deadline_s=deadline_s, enter=own_mounts, pass_fds=[home])
    finally:
        os.close(home)
