"""The clairvoyant programme against cases worked by hand, and the informed paths against their law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.keys import TargetKey
from policies.paths import DemandPaths
from simulations.bounds.clairvoyant import FINISH_S, BoundInput, clairvoyant_bound
from simulations.bounds.informed import InformedForecaster, TrueDemand


def bound_input(work: list[float], **changes: Any) -> BoundInput:
    """All work is prefill, a second a bin, one request per replica-second; nothing else costs."""
    arrived = np.array(work)
    given_ = BoundInput(
        bin_s=1.0,
        work_s=arrived,
        prefill_s=arrived,
        requests=arrived.copy(),
        slo_wait_s=2.0,
        gpus_per_replica=1,
        start_s=0.0,
        min_replicas=0,
        miss_cost=100.0,
    )
    return replace(given_, **changes)


def test_constant_load_costs_exactly_its_work() -> None:
    """Five replicas' worth for 20 s, the last 2 s of which may be served after the end."""
    bound = clairvoyant_bound(bound_input([5.0] * 20))

    assert bound.held_gpu_s == pytest.approx(5.0 * 18)
    assert bound.misses == pytest.approx(0.0)


def test_gpus_of_a_replica_count_each() -> None:
    bound = clairvoyant_bound(bound_input([5.0] * 20, gpus_per_replica=4))

    assert bound.held_gpu_s == pytest.approx(4 * 5.0 * 18)


def test_a_burst_is_spread_over_the_slo() -> None:
    """12 replica-seconds in one bin: served in that second and the two of the SLO by 4 replicas each,
    which starts of 3 s make cheapest: 12 + 3 x 4."""
    work = [0.0] * 5 + [12.0] + [0.0] * 10

    bound = clairvoyant_bound(bound_input(work, start_s=3.0))

    assert bound.held_gpu_s == pytest.approx(12.0 + 3.0 * 4.0)
    assert bound.capacity.max() == pytest.approx(4.0)


def test_a_short_lull_is_bridged_and_a_long_one_is_not() -> None:
    """With starts of 4 s, holding 3 replicas through 2 idle seconds beats starting them again."""
    short = clairvoyant_bound(bound_input([0, 3, 3, 0, 0, 3, 3, 0, 0, 0, 0], slo_wait_s=0.01, start_s=4.0))
    long = clairvoyant_bound(bound_input([0, 3, 3, *[0] * 20, 3, 3, 0, 0, 0], slo_wait_s=0.01, start_s=4.0))

    # One bin of grace: the deadline lies in the bin after. Two starts of 3 replicas cost 24.
    assert short.cost_gpu_s < 12 + 24
    assert long.capacity[8:18].max() == pytest.approx(0.0, abs=1e-6)


def test_misses_cheaper_than_starting_are_taken() -> None:
    """One request whose replica would cost 500 GPU-seconds to start, or 67 to hold so long, is missed at 10."""
    work = [0.0] * 200 + [1.0] + [0.0] * 20

    dear = clairvoyant_bound(bound_input(work, start_s=500.0, miss_cost=10.0))

    assert dear.misses == pytest.approx(1.0)
    assert dear.cost_gpu_s == pytest.approx(10.0)


def test_minimum_replicas_are_held_whatever_comes() -> None:
    assert clairvoyant_bound(bound_input([0.0] * 10, min_replicas=2)).held_gpu_s == pytest.approx(20.0)


works = st.lists(st.floats(0.0, 20.0), min_size=3, max_size=25)


@settings(max_examples=40, deadline=None)
@given(works, st.integers(1, 12), st.floats(0.0, 5.0), st.integers(0, 2**16))
def test_no_integer_schedule_costs_less(work: list[float], most: int, start_s: float, seed: int) -> None:
    """Random schedules, served first come first served in a fluid, never beat the programme."""
    given_ = bound_input(work, start_s=start_s, miss_cost=3.0)
    capacity = np.random.default_rng(seed).integers(0, most + 1, len(work)).astype(float)
    cost = capacity.sum() + start_s * np.maximum(np.diff(capacity, prepend=capacity[0]), 0.0).sum()
    queue: list[list[float]] = []
    missed = 0.0
    for t, amount in enumerate(work):
        queue.append([float(t), amount])
        left = capacity[t]
        while queue and left > 0 and queue[0][1] <= left:
            left -= queue.pop(0)[1]
        if queue:
            queue[0][1] -= left
        # Whatever must have begun by the end of this bin and has not, is missed.
        for entry in queue:
            if entry[0] + 1 + given_.slo_wait_s <= t + 1:
                missed += entry[1]
        queue = [e for e in queue if e[0] + 1 + given_.slo_wait_s > t + 1]

    assert clairvoyant_bound(given_).cost_gpu_s <= cost + 3.0 * missed + 1e-6


@settings(max_examples=30, deadline=None)
@given(works, st.floats(1.0, 3.0))
def test_more_work_dearer_starts_and_dearer_misses_never_cost_less(work: list[float], factor: float) -> None:
    base = bound_input(work, start_s=1.0, miss_cost=2.0)
    cost = clairvoyant_bound(base).cost_gpu_s

    more = replace(base, work_s=base.work_s * factor, prefill_s=base.prefill_s * factor)
    assert clairvoyant_bound(more).cost_gpu_s >= cost - 1e-6
    assert clairvoyant_bound(replace(base, start_s=factor)).cost_gpu_s >= cost - 1e-6
    assert clairvoyant_bound(replace(base, miss_cost=2.0 * factor)).cost_gpu_s >= cost - 1e-6
    assert clairvoyant_bound(replace(base, slo_wait_s=2.0 * factor)).cost_gpu_s <= cost + 1e-6


def test_decode_may_wait_longer_than_prefill_but_not_for_ever() -> None:
    """Work without prefill is due FINISH_S after the deadline: within a longer span it must be done."""
    bins = int(FINISH_S) + 40
    work = [10.0] + [0.0] * (bins - 1)
    bound = clairvoyant_bound(bound_input(work, prefill_s=np.zeros(bins)))

    assert bound.held_gpu_s == pytest.approx(10.0)


def law(rate: float, dispersion: float, work_s: float = 0.5, variance: float = 0.01) -> TrueDemand:
    one = np.ones(2)
    return TrueDemand(
        np.array([0.0, 100.0, 200.0]), rate * np.array([1.0, 3.0]), dispersion * one, work_s * one, variance * one
    )


def informed(of: TrueDemand, n_paths: int, now_s: float, horizon_s: float) -> DemandPaths:
    key = TargetKey("default", "a")
    return InformedForecaster({key: of}, seed=1, n_paths=n_paths).paths(None, (key,), now_s, horizon_s)


def test_informed_paths_have_the_laws_mean_and_variance() -> None:
    """100 requests/s of 0.5 replica-seconds, dispersion 4: mean 50, variance 100 (0.01 + 4 x 0.25)."""
    paths = informed(law(100.0, 4.0), 20_000, 10.0, 1.0).paths[0, :, 0]

    assert paths.mean() == pytest.approx(50.0, rel=0.01)
    assert paths.var() == pytest.approx(101.0, rel=0.05)


def test_informed_paths_know_a_rate_step_before_it_comes() -> None:
    """At 96 s the rate triples in 4 s: steps before stand at 50, those after at 150."""
    drawn = informed(law(100.0, 1.0), 4000, 96.0, 16.0)
    means = drawn.paths[0].mean(axis=0)

    assert means[:4] == pytest.approx([50.0] * 4, rel=0.02)
    assert means[5:] == pytest.approx([150.0] * (len(means) - 5), rel=0.02)


def test_a_short_steps_dispersion_is_capped_by_what_clients_can_send() -> None:
    """Asymptotic dispersion 10,000 at 100/s: within a second no more than 1 + 0.1 x 100 = 11."""
    paths = informed(law(100.0, 1e4), 20_000, 10.0, 1.0).paths[0, :, 0]

    assert paths.var() == pytest.approx(100 * (0.01 + 11 * 0.25), rel=0.1)
