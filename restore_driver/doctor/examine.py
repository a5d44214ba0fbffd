"""Run the table of checks: subjects in parallel, each check isolated, with an end even if a system call hangs.

A check that raises becomes a finding, and so does one that never returns: its thread is abandoned, which is harmless,
as the process ends soon, and every subprocess has a deadline of its own, at which its whole group is killed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from restore_driver.doctor.checks import SUBJECTS, Check
from restore_driver.doctor.findings import Answer, Finding, broken, warning
from restore_driver.doctor.machine import Machine
from restore_driver.errors import DriverError

GIVE_UP_S = 30.0
"""Longer than all subprocess deadlines of any subject together: reached only if a system call hangs, for example on a
network file system whose server is gone."""


def examine(
    machine: Machine, subjects: Sequence[Sequence[Check]] = SUBJECTS, give_up_s: float = GIVE_UP_S
) -> tuple[Finding, ...]:
    """Return one finding for each check, in the table's order."""
    found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    for subject in subjects:
        threading.Thread(
            target=_run_subject, args=(machine, subject, found), name=f"doctor-{subject[0].name}", daemon=True
        ).start()
    wanted = [check.name for subject in subjects for check in subject]
    ends_s = time.monotonic() + give_up_s
    by_name: dict[str, Finding] = {}
    while len(by_name) < len(wanted):
        try:
            finding = found.get(timeout=max(0.0, ends_s - time.monotonic()))
        except queue.Empty:
            break
        by_name[finding.name] = finding
    return tuple(by_name.get(name) or _named(name, _timed_out(give_up_s)) for name in wanted)


def _run_subject(machine: Machine, subject: Sequence[Check], found: queue.SimpleQueue[Finding]) -> None:
    for check in subject:
        found.put(_named(check.name, _answer(machine, check)))


def _answer(machine: Machine, check: Check) -> Answer:
    if check.root_to and not machine.is_root:
        return warning(f"not checked: only root may {check.root_to}", "run it as root")
    try:
        return check.run(machine)
    except DriverError as error:
        return broken(error.detail, error.hint or "see the detail")
    except Exception as error:
        return broken(f"the check itself failed: {type(error).__name__}: {error}", "check it by hand, and report this")


def _timed_out(limit_s: float) -> Answer:
    return broken(f"no answer within {limit_s:g} s: this check or one before it hangs", "see `dmesg` and `ps`")


def _named(name: str, answer: Answer) -> Finding:
    return Finding(name, answer.verdict, answer.detail, answer.hint)
