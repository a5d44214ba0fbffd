"""A limit that all streams of a transfer share, so that staging leaves the network to those who serve."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from restore_driver.deadline import Clock


class Limiter:
    """Hands out bytes at a rate; `None` is no limit.

    Each taker books his bytes on one line of time and sleeps until they are due. Nothing is saved up while nobody
    takes, so that the limit holds over every stretch of time and not on the average only.
    """

    def __init__(
        self, bytes_per_s: float | None, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._bytes_per_s, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._lock = threading.Lock()
        self._booked_until_s = clock()

    def take(self, number_bytes: int) -> None:
        """Returns when that many bytes more may have gone over the line."""
        if self._bytes_per_s is None:
            return
        with self._lock:
            now_s = self._clock()
            self._booked_until_s = max(self._booked_until_s, now_s) + number_bytes / self._bytes_per_s
            wait_s = self._booked_until_s - now_s
        self._sleep(wait_s)
