"""The contract of the `MetricSource` port (autoscaler/ports.py): every adapter runs these tests.

An adapter's test module derives a class from `MetricSourceContract` and returns a fresh `MetricWorld` from `make`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import pytest

from autoscaler.ports import MetricFrame, MetricSource
from policies.keys import TargetKey

COLUMNS = (
    "offered_requests",
    "prompt_tokens",
    "completed_requests",
    "output_tokens",
    "running",
    "queued",
    "queued_prompt_tokens",
)
GAP_S = (60.0, 120.0)
HISTORY_S = 3600.0
"""As far as a pass that begins without a state looks back."""
UNKNOWN = TargetKey("nowhere", "none")


class MetricWorld(Protocol):
    """Metrics under test, whose time the test moves. `period_s` divides 60 s.

    `steady` is offered requests all the time. So is `gappy`, but its record misses the seconds `GAP_S`.
    """

    steady: TargetKey
    gappy: TargetKey
    period_s: float

    @property
    def source(self) -> MetricSource: ...

    def advance(self, until_s: float) -> None:
        """Let everything happen up to `until_s`, seconds from the world's start."""
        ...


def assert_equal(one: MetricFrame, other: MetricFrame) -> None:
    assert (one.keys, one.start_s, one.period_s) == (other.keys, other.start_s, other.period_s)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column), column)


def row(frame: MetricFrame, key: TargetKey, column: str = "offered_requests") -> list[float]:
    return [float(v) for v in frame.rows((key,), column)[0]]


class MetricSourceContract(ABC):
    """Derive from it, name the class `Test...`, and implement `make`."""

    @abstractmethod
    def make(self) -> MetricWorld:
        """Return a fresh world at 0 s."""

    @pytest.fixture
    def world(self) -> MetricWorld:
        return self.make()

    def test_before_the_first_period_has_ended_there_are_no_samples(self, world: MetricWorld) -> None:
        frame = world.source.read((world.steady,), 0.0, 0.0)

        assert frame.samples == 0

    def test_a_frame_has_the_periods_that_end_within_the_interval(self, world: MetricWorld) -> None:
        world.advance(300.0)
        period_s = world.period_s

        frame = world.source.read((world.steady,), 60.0, 180.0)
        between = world.source.read((world.steady,), 60.0 + period_s / 2, 180.0 + period_s / 2)

        assert (frame.start_s, frame.end_s, frame.samples) == (60.0, 180.0, round(120 / period_s))
        assert_equal(between, frame)
        assert all(getattr(frame, column).shape == (1, frame.samples) for column in COLUMNS)
        assert sum(row(frame, world.steady)) > 0

    def test_equal_reads_give_equal_frames_whatever_was_read_between(self, world: MetricWorld) -> None:
        keys = (world.steady, world.gappy)
        world.advance(200.0)
        first = world.source.read(keys, 0.0, 200.0)

        world.source.read((world.gappy,), 100.0, 150.0)
        world.advance(500.0)
        world.source.read(keys, 0.0, 500.0)

        assert_equal(world.source.read(keys, 0.0, 200.0), first)

    def test_a_frame_that_was_read_does_not_change(self, world: MetricWorld) -> None:
        world.advance(200.0)
        frame = world.source.read((world.steady,), 0.0, 200.0)
        copies = {column: getattr(frame, column).copy() for column in COLUMNS}

        world.advance(2 * HISTORY_S)
        world.source.read((world.steady,), 0.0, 2 * HISTORY_S)

        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(frame, column), copies[column], column)

    def test_pieces_join_to_the_whole(self, world: MetricWorld) -> None:
        world.advance(300.0)
        whole = world.source.read((world.steady,), 0.0, 300.0)

        pieces = [world.source.read((world.steady,), float(at), at + 30.0) for at in range(0, 300, 30)]

        for column in COLUMNS:
            joined = np.concatenate([getattr(piece, column) for piece in pieces], axis=1)
            np.testing.assert_array_equal(joined, getattr(whole, column), column)

    def test_gaps_of_the_record_are_unknown_and_not_zero(self, world: MetricWorld) -> None:
        world.advance(180.0)

        frame = world.source.read((world.steady, world.gappy), 0.0, 180.0)

        begin, end = (round(at / world.period_s) for at in GAP_S)
        for column in COLUMNS:
            values = np.array(row(frame, world.gappy, column))
            assert np.isnan(values[begin:end]).all(), column
            assert np.isfinite(values[:begin]).all() and np.isfinite(values[end:]).all(), column
            assert np.isfinite(row(frame, world.steady, column)).all(), column

    def test_an_unknown_target_is_unknown_and_hides_no_other(self, world: MetricWorld) -> None:
        world.advance(60.0)

        frame = world.source.read((UNKNOWN, world.steady), 0.0, 60.0)

        assert np.isnan(row(frame, UNKNOWN)).all()
        assert_equal(
            world.source.read((world.steady,), 0.0, 60.0),
            world.source.read(tuple(k for k in frame.keys if k != UNKNOWN), 0.0, 60.0),
        )
        assert row(frame, world.steady) == row(world.source.read((world.steady,), 0.0, 60.0), world.steady)

    def test_a_targets_samples_are_its_own_in_whatever_order_keys_are_asked(self, world: MetricWorld) -> None:
        world.advance(60.0)
        one = world.source.read((world.steady, world.gappy), 0.0, 60.0)
        other = world.source.read((world.gappy, world.steady), 0.0, 60.0)

        for key in (world.steady, world.gappy):
            assert row(one, key) == row(other, key)

    @pytest.mark.parametrize("hours", [1.5, 2.5, 5.0])
    def test_an_hour_of_history_is_kept_even_if_nothing_was_read_meanwhile(
        self, world: MetricWorld, hours: float
    ) -> None:
        now_s = hours * 3600.0
        world.advance(now_s)

        frame = world.source.read((world.steady,), now_s - HISTORY_S, now_s)

        assert (frame.start_s, frame.end_s) == (now_s - HISTORY_S, now_s)
        assert np.isfinite(row(frame, world.steady)).all()
        assert sum(row(frame, world.steady)) > 0
