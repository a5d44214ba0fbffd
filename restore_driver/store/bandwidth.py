"""A bandwidth limit that all streams of a transfer share, so that staging leaves bandwidth to serving replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from restore_driver.deadline import Clock


class Limiter:
    """A leaky bucket without burst; a rate of None is no limit.

    Each caller reserves its bytes on one timeline and sleeps until its slot. Idle time is not saved up, so the limit
    holds over every interval and not only on average.
    """

    def __init__(
        self, bytes_per_s: float | None, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._bytes_per_s, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._lock = threading.Lock()
        self._reserved_until_s = clock()

    def take(self, number_bytes: int) -> None:
        """Reserve the bytes and sleep until they may have been transferred."""
        if self._bytes_per_s is None:
            return
        with self._lock:
            now_s = self._clock()
            self._reserved_until_s = max(self._reserved_until_s, now_s) + number_bytes / self._bytes_per_s
            wait_s = self._reserved_until_s - now_s
        self._sleep(wait_s)
