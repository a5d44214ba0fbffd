"""Required capacity: the delay bound, its limits, and its agreement with a queue played out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.required import SUSTAINED_SLOS, at_lead_times, required_capacity

ENDS = np.array([1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0])
demands = st.lists(st.floats(0.0, 300.0), min_size=len(ENDS), max_size=len(ENDS))


def required(demand: list[float], slo_s: float, backlog: float = 0.0) -> np.ndarray:
    return required_capacity(ENDS, np.array([[demand]]), np.array([backlog]), np.array([slo_s]))[0, 0]


def test_sustained_demand_needs_its_own_size_however_long_requests_may_wait() -> None:
    """A window of four SLOs and more earns no allowance: 40 replicas' worth needs 40 replicas."""
    assert required([40.0] * 8, slo_s=2.0)[-1] == pytest.approx(40.0)


def test_without_an_allowance_the_requirement_is_the_peak_so_far() -> None:
    assert required([3, 1, 5, 2, 9, 1, 1, 1], slo_s=0.0) == pytest.approx([3, 3, 5, 5, 9, 9, 9, 9])


def test_a_burst_shorter_than_the_slo_needs_less_than_its_peak() -> None:
    """30 replica-seconds within 1 s may be spread over 1 s + an allowance of 2 s - 1/4 s: 30/2.75."""
    assert required([0, 30, 0, 0, 0, 0, 0, 0], slo_s=2.0)[-1] == pytest.approx(30 / 2.75)


def test_backlog_counts_as_work_that_has_arrived() -> None:
    """10 replica-seconds queued and none to come: within the first second, 10/(1 + 1.75)."""
    assert required([0.0] * 8, slo_s=2.0, backlog=10.0)[0] == pytest.approx(10 / 2.75)


@given(demands, st.floats(0.0, 10.0), st.floats(0.0, 50.0))
def test_never_falls_with_the_horizon(demand: list[float], slo_s: float, backlog: float) -> None:
    assert np.all(np.diff(required(demand, slo_s, backlog)) >= -1e-9)


@given(demands, demands, st.floats(0.0, 10.0))
def test_more_demand_never_requires_less(demand: list[float], more: list[float], slo_s: float) -> None:
    larger = [a + b for a, b in zip(demand, more, strict=True)]

    assert np.all(required(larger, slo_s) >= required(demand, slo_s) - 1e-9)


@given(demands, st.floats(0.0, 8.0), st.floats(0.01, 2.0))
def test_a_longer_slo_never_requires_more(demand: list[float], slo_s: float, longer_s: float) -> None:
    assert np.all(required(demand, slo_s + longer_s) <= required(demand, slo_s) + 1e-9)


@given(demands, st.floats(0.5, 5.0))
def test_a_queue_played_out_at_the_required_capacity_never_waits_past_the_slo(
    demand: list[float], slo_s: float
) -> None:
    """The requirement suffices: with that capacity a fluid queue's delay stays within the SLO."""
    capacity = required(demand, slo_s)[-1]
    backlog, previous = 0.0, 0.0
    for end, rate in zip(ENDS, demand, strict=True):
        backlog = max(backlog + (rate - capacity) * (end - previous), 0.0)
        previous = end

        assert backlog <= capacity * slo_s + 1e-6


@given(demands)
def test_scales_with_demand(demand: list[float]) -> None:
    assert required([3 * d for d in demand], 2.0) == pytest.approx(3 * required(demand, 2.0))


def test_a_lead_time_between_two_steps_is_covered_by_the_later_one() -> None:
    by_step = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]] * 3)

    assert list(at_lead_times(by_step, ENDS, np.array([1.0, 5.0, 99.0]))) == [1.0, 5.0, 8.0]


def test_the_allowance_is_gone_at_the_documented_window() -> None:
    """At SUSTAINED_SLOS x S = 16 s and more the window's mean is required in full."""
    assert ENDS[-1] == SUSTAINED_SLOS * 4.0
    assert required([10.0] * 8, slo_s=4.0)[-1] == pytest.approx(10.0)
