"""What became of one action: typed, so that the next pass knows what it may count on.

Done       in force, or asked for and accepted
InFlight   accepted and on its way; capacity until `until_s`
Refused    will not be done as asked (quota, admission, a node that is gone); asking again at once is pointless
Failed     was tried and failed; tried again after a pause
Conflict   the object changed meanwhile; the next pass looks again
Unknown    no answer came: it may be in force or not, and counts as in force until the view shows or time passes
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The action is in force, or was accepted."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """The action is on its way; past `until_s` it is no capacity."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The action will not be done as asked."""

    detail: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The action was tried and failed."""

    detail: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The object changed between decision and action."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer came."""

    detail: str


Outcome = Done | InFlight | Refused | Failed | Conflict | Unknown
EXPECTED = (Done, InFlight, Unknown)
"""Outcomes whose effect the next view should show, or may."""
SETBACKS = (Refused, Failed)
"""Outcomes after which the same action waits before it is asked for again."""
