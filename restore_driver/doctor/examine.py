"""Going through the table: subjects side by side, each check on its own, and an end even where the kernel hangs.

A check that raises becomes a finding, and so does one that never comes back: its thread is left behind, which is
harmless, as the process ends soon, and every subprocess that it could wait for has a deadline of its own, under which
its whole group is killed.
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
"""Longer than the subprocesses' deadlines of any subject together: met only when a system call hangs, such as a look at
a network file system that is gone."""


def examine(
    machine: Machine, subjects: Sequence[Sequence[Check]] = SUBJECTS, give_up_s: float = GIVE_UP_S
) -> tuple[Finding, ...]:
    """One finding for each check, in the table's order."""
    found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    for subject in subjects:
        threading.Thread(
            target=_look_at, args=(machine, subject, found), name=f"doctor-{subject[0].name}", daemon=True
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
    return tuple(by_name.get(name) or _named(name, _gave_up(give_up_s)) for name in wanted)


def _look_at(machine: Machine, subject: Sequence[Check], found: queue.SimpleQueue[Finding]) -> None:
    for check in subject:
        found.put(_named(check.name, _answer(machine, check)))


def _answer(machine: Machine, check: Check) -> Answer:
    if check.root_to and not machine.is_root:
        return warning(f"not looked at: only root may {check.root_to}", "run it as root")
    try:
        return check.look(machine)
    except DriverError as error:
        return broken(error.detail, error.hint or "see the detail")
    except Exception as error:  # one look that fails must not hide what the others saw
        return broken(f"the look itself failed: {type(error).__name__}: {error}", "look at it by hand, and report this")


def _gave_up(limit_s: float) -> Answer:
    return broken(f"no answer within {limit_s:g} s: it, or what is looked at before it, hangs", "see `dmesg` and `ps`")


def _named(name: str, answer: Answer) -> Finding:
    return Finding(name, answer.verdict, answer.detail, answer.hint)
