"""Time for the runner: the one place of the autoscaler that sleeps.

Passes take their moment as an argument. The runner asks a clock for it and lets the clock wait; the controller's is
`WallClock`, the simulator's moves its world instead of waiting.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Moments in seconds, on one line of time."""

    def now_s(self) -> float:
        """Return the present moment."""
        ...

    def sleep_until(self, at_s: float) -> None:
        """Return at `at_s`, or earlier when woken."""
        ...

    def wake(self) -> None:
        """End a sleep early; may be called from another thread."""
        ...


class WallClock:
    """Unix seconds for the passes, monotonic seconds for the waiting, so that a step of the clock delays no pass."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def now_s(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def sleep_until(self, at_s: float) -> None:
        """Wait until `at_s`, or until woken."""
        self._woken.wait(max(at_s - self.now_s(), 0.0))
        self._woken.clear()

    def wake(self) -> None:
        """End the present sleep, or the next if none is under way."""
        self._woken.set()
