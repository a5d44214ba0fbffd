"""The bandwidth limit and the back-off of a transfer, on a virtual clock."""

from __future__ import annotations

import threading

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.fetch import Line


class Clock:
    """A virtual clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now_s += seconds


def test_bytes_take_the_time_of_the_limit() -> None:
    clock = Clock()
    limiter = Limiter(1000.0, clock, clock.sleep)
    for _ in range(5):
        limiter.take(500)

    assert clock.now_s == pytest.approx(102.5)


def test_idle_time_is_not_saved_up() -> None:
    clock = Clock()
    limiter = Limiter(1000.0, clock, clock.sleep)
    clock.now_s += 3600.0
    limiter.take(2000)

    assert clock.slept == [pytest.approx(2.0)]


def test_several_streams_share_one_limit() -> None:
    """Both reserve at the same moment: the second also waits for the first one's bytes."""
    clock = Clock()
    slept: list[float] = []
    limiter = Limiter(1000.0, clock, slept.append)
    limiter.take(1000)
    limiter.take(1000)

    assert slept == [pytest.approx(1.0), pytest.approx(2.0)]


def test_without_a_limit_no_caller_sleeps() -> None:
    clock = Clock()
    Limiter(None, clock, clock.sleep).take(1 << 40)

    assert clock.slept == []


def test_failures_are_retried_with_doubled_pauses_until_the_patience_ends() -> None:
    clock, error = Clock(), DriverError(Reason.STORE_UNREACHABLE, "reset by peer")
    line = Line(Limiter(None), 5.0, clock, clock.sleep)
    with pytest.raises(DriverError) as caught:
        while True:
            line.failed(error)

    assert caught.value is error
    assert clock.slept == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert clock.now_s - 100.0 <= 5.0


def test_a_chunk_that_arrives_resets_back_off_and_patience() -> None:
    clock, error = Clock(), DriverError(Reason.STORE_UNREACHABLE, "reset by peer")
    line = Line(Limiter(None), 1.0, clock, clock.sleep)
    for _ in range(10):
        line.failed(error)
        line.succeeded()

    assert clock.slept == pytest.approx([0.2] * 10)
