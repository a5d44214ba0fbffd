"""Deadlines of calls that may block."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from restore_driver.errors import DriverError, Reason

Clock = Callable[[], float]
"""Seconds on a clock that never goes back, such as `time.monotonic`."""


@dataclass(frozen=True)
class Deadline:
    """A moment on `clock`, passed to every call that may block; `what` names the work in errors."""

    what: str
    limit_s: float
    ends_s: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, what: str, limit_s: float, clock: Clock = time.monotonic) -> Deadline:
        """Return the deadline `limit_s` seconds from now."""
        return cls(what, limit_s, clock() + limit_s, clock)

    def left_s(self) -> float:
        """Return the seconds left, always positive.

        Raises:
            DriverError: DEADLINE_EXCEEDED when none are.
        """
        left_s = self.ends_s - self.clock()
        if left_s <= 0.0:
            raise DriverError(Reason.DEADLINE_EXCEEDED, f"{self.what} took longer than {self.limit_s:g} s")
        return left_s
