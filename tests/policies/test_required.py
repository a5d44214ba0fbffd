"""Required capacity: the delay bound, its limits, and its agreement with a queue played out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.required import (
    BLOCK_SAMPLES,
    SUSTAINED_SLOS,
    at_steps,
    blocks,
    lead_steps,
    required_by_step,
    required_until,
)

ENDS = np.array([1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0])
demands = st.lists(st.floats(0.0, 300.0), min_size=len(ENDS), max_size=len(ENDS))


def required(demand: list[float], slo_s: float, backlog: float = 0.0) -> np.ndarray:
    return required_until(by_step(demand, slo_s, backlog))[0, 0]


def by_step(demand: list[float], slo_s: float, backlog: float = 0.0) -> np.ndarray:
    return required_by_step(ENDS, np.array([[demand]], float), np.array([backlog]), np.array([slo_s]))


def every_window(demand: list[float], slo_s: float, backlog: float) -> np.ndarray:
    """The definition, window by window, none left out: what each step's end requires."""
    edges = [0.0, *ENDS]
    work = [0.0, *np.cumsum(np.array(demand) * np.diff(edges))]
    out = []
    for u in range(1, len(edges)):
        spans = [edges[u] - edges[s] for s in range(u)]
        arrived = [work[u] - work[s] + (backlog if s == 0 else 0.0) for s in range(u)]
        out.append(max(a / (w + max(slo_s - w / SUSTAINED_SLOS, 0.0)) for a, w in zip(arrived, spans, strict=True)))
    return np.array(out)


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


@given(demands, st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0, 10.0]), st.floats(0.0, 50.0))
def test_windows_left_out_change_no_running_maximum(demand: list[float], slo_s: float, backlog: float) -> None:
    """Against the definition with every window; at a moment alone, never more than it and never less than a step."""
    full = every_window(demand, slo_s, backlog)
    pruned = by_step(demand, slo_s, backlog)[0, 0]
    steps_s = np.diff(ENDS, prepend=0.0)
    alone = np.array(demand) * steps_s / (steps_s + np.maximum(slo_s - steps_s / SUSTAINED_SLOS, 0.0))

    assert np.maximum.accumulate(pruned) == pytest.approx(np.maximum.accumulate(full), abs=1e-9)
    assert np.all(pruned <= full + 1e-9)
    assert np.all(pruned >= alone - 1e-9)


def test_load_that_is_over_is_not_required_once_more_of_a_later_moment() -> None:
    """40 replicas until 8 s, nothing after, no waiting: the mean of (0, 16] would still ask for 20 at 16 s."""
    demand = [40.0] * 6 + [0.0, 0.0]

    assert list(by_step(demand, slo_s=0.0)[0, 0]) == demand
    assert every_window(demand, 0.0, 0.0)[-1] == pytest.approx(20.0)


@given(demands, st.sampled_from([0.5, 1.0, 2.0]), st.floats(0.0, 50.0))
def test_a_plan_at_its_limit_has_caught_up_within_four_slos(demand: list[float], slo_s: float, backlog: float) -> None:
    """A fluid queue at the required capacity is never busy for longer than the sustained window."""
    capacity = required(demand, slo_s, backlog)[-1]
    queued, busy_since, previous = backlog, 0.0, 0.0
    for end, rate in zip(ENDS, demand, strict=True):
        queued += (rate - capacity) * (end - previous)
        if queued <= 1e-6:
            queued, busy_since = 0.0, end
        previous = end

        assert queued == 0.0 or end - busy_since < SUSTAINED_SLOS * slo_s


@given(st.lists(st.tuples(demands, st.sampled_from([0.0, 1.0, 7.0])), min_size=2, max_size=5))
def test_a_target_requires_the_same_whatever_others_there_are(targets: list[tuple[list[float], float]]) -> None:
    """Exactly: the windows left out for one target do not depend on its neighbours' SLOs."""
    paths = np.array([[demand] for demand, _ in targets])
    slos = np.array([slo for _, slo in targets])

    together = required_by_step(ENDS, paths, np.zeros(len(slos)), slos)

    assert all(np.array_equal(together[i], by_step(d, s)[0]) for i, (d, s) in enumerate(targets))


@given(demands, st.floats(0.0, 10.0))
def test_float32_paths_give_float32_within_a_millionth(demand: list[float], slo_s: float) -> None:
    single = required_by_step(ENDS, np.array([[demand]], np.float32), np.zeros(1), np.array([slo_s]))

    assert single.dtype == required_until(single).dtype == np.float32
    assert single[0, 0] == pytest.approx(by_step(demand, slo_s)[0, 0], rel=2e-6, abs=1e-6)


@given(st.integers(0, 50), st.integers(1, 3 * BLOCK_SAMPLES))
def test_blocks_cover_every_target_once_in_order(n_targets: int, n_paths: int) -> None:
    covered = [i for block in blocks(n_targets, n_paths) for i in range(block.start, block.stop)]

    assert covered == list(range(n_targets))


def test_a_lead_time_between_two_steps_is_covered_by_the_later_one() -> None:
    """Two rows of one target, three paths: leads within, between and past the steps."""
    steps = np.array([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]] * 3])
    asked = np.array([lead_steps(ENDS, np.array([1.0, 5.0, 99.0])), lead_steps(ENDS, np.array([0.0, 4.0, 16.0]))])

    assert at_steps(steps, np.array([0, 0]), asked).tolist() == [[1.0, 5.0, 8.0], [1.0, 4.0, 8.0]]


def test_the_allowance_is_gone_at_the_documented_window() -> None:
    """At SUSTAINED_SLOS x S = 16 s and more the window's mean is required in full."""
    assert ENDS[-1] == SUSTAINED_SLOS * 4.0
    assert required([10.0] * 8, slo_s=4.0)[-1] == pytest.approx(10.0)
