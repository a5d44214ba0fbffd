"""Verdicts, answers of checks and the findings of an examination."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The result of a check, from no action needed to action needed."""

    OK = "ok"
    ABSENT = "absent"  # not installed, and not required
    WARNING = "warning"  # works, but differently or slower, or could not be checked
    MISSING = "missing"  # required and not installed
    BROKEN = "broken"  # required, installed, and unusable


FATAL = frozenset({Verdict.MISSING, Verdict.BROKEN})


@dataclass(frozen=True)
class Answer:
    """The result of one check without its name, which the table of checks adds."""

    verdict: Verdict
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `hint` is empty where nothing needs fixing."""

    name: str
    verdict: Verdict
    detail: str
    hint: str = ""


def is_fit(findings: Iterable[Finding]) -> bool:
    """Return True if nothing that is needed is missing or broken; warnings are allowed."""
    return all(finding.verdict not in FATAL for finding in findings)


def summary(findings: Collection[Finding]) -> str:
    """Return one sentence: whether the machine is fit, else the checks to fix, and the number of warnings."""
    warnings = sum(finding.verdict is Verdict.WARNING for finding in findings)
    more = f"; {warnings} warning{'' if warnings == 1 else 's'}" if warnings else ""
    if is_fit(findings):
        return f"All that is needed is there{more}."
    names = ", ".join(finding.name for finding in findings if finding.verdict in FATAL)
    return f"Missing or broken: {names}{more}."


def ok(detail: str, hint: str = "") -> Answer:
    """Return the answer of a check that passed."""
    return Answer(Verdict.OK, detail, hint)


def absent(detail: str) -> Answer:
    """Return the answer for something that is not installed and not required."""
    return Answer(Verdict.ABSENT, detail)


def warning(detail: str, hint: str) -> Answer:
    """Return the answer for something that works differently or slower, or could not be checked."""
    return Answer(Verdict.WARNING, detail, hint)


def missing(detail: str, hint: str) -> Answer:
    """Return the answer for something that is required and not installed."""
    return Answer(Verdict.MISSING, detail, hint)


def broken(detail: str, hint: str) -> Answer:
    """Return the answer for something that is required, installed and unusable."""
    return Answer(Verdict.BROKEN, detail, hint)
