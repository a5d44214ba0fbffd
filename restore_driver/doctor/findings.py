"""What a look at the machine comes to: a verdict, what was seen, and what would fix it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Sorted by what the reader should do: nothing, know it, hint it."""

    OK = "ok"
    ABSENT = "absent"  # not here, and nobody asked for it
    WARNING = "warning"  # all goes on, but differently, slower or not looked at
    MISSING = "missing"  # needed and not here
    BROKEN = "broken"  # needed, here, and of no use


FATAL = frozenset({Verdict.MISSING, Verdict.BROKEN})


@dataclass(frozen=True)
class Answer:
    """What one check says; the table gives it its name."""

    verdict: Verdict
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    name: str
    verdict: Verdict
    detail: str
    hint: str = ""


def is_fit(findings: Iterable[Finding]) -> bool:
    """True when nothing that is needed is missing or broken; warnings are allowed."""
    return all(finding.verdict not in FATAL for finding in findings)


def ok(detail: str, hint: str = "") -> Answer:
    """As it should be."""
    return Answer(Verdict.OK, detail, hint)


def absent(detail: str) -> Answer:
    """Not here, and not needed."""
    return Answer(Verdict.ABSENT, detail)


def warning(detail: str, hint: str) -> Answer:
    """Worth knowing: something works differently."""
    return Answer(Verdict.WARNING, detail, hint)


def missing(detail: str, hint: str) -> Answer:
    """Needed and not here."""
    return Answer(Verdict.MISSING, detail, hint)


def broken(detail: str, hint: str) -> Answer:
    """Needed, here, and of no use."""
    return Answer(Verdict.BROKEN, detail, hint)
