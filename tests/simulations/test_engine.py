"""One fleet through time: timelines by hand, and what must hold whatever happens."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.rating.service import ServiceModel, load_service
from simulations.engine import SAMPLE_FIELDS, Fleet, LatencyHistogram
from simulations.engine.layout import DRAINING, OFF, SERVING

SERVICE = ServiceModel(
    name="even", source="a test", gpu="none", gpus_per_replica=1, weights_bytes=0,
    prefill_tokens_per_s=100.0, prefill_base_s=0.0, iteration_base_s=0.5, iteration_per_sequence_s=0.25,
    iteration_per_kv_token_s=0.0, max_num_seqs=2, kv_tokens_limit=1000.0, max_prefill_backlog_s=1.0,
    router_weight_s=0.1,
)  # fmt: skip
"""One second per 100 prompt tokens; 0.75 s a token alone, 1 s in company."""
NOBODY: tuple[list[float], list[float], list[float]] = ([], [], [])
FAST = settings(max_examples=40, deadline=None)


def fleet_of(slots: int, service: ServiceModel = SERVICE, slo_wait_s: float = 2.0) -> Fleet:
    fleet = Fleet(service, slots, slo_wait_s, duration_s=100.0, bucket_s=10.0)
    for slot in range(slots):
        fleet.activate(slot, 0.0)
    return fleet


def test_a_prefill_stops_the_batch_and_company_slows_it() -> None:
    """Alone 0.75 s a token; the second's prefill of 1 s stands between; then 1 s a token for both."""
    fleet = fleet_of(1)

    # First: prefill [0, 1), 2 of its 4 decode tokens by 2.5; second: prefill [2.5, 3.5).
    fleet.advance(20.0, [0.0, 2.5], [100, 100], [5, 4])
    samples = fleet.take_samples()

    # First ends at 3.5 + 2 x 1.0; second has 1 token left and is alone: 5.5 + 0.75.
    assert samples[:, 2].nonzero()[0].tolist() == [5, 6]
    assert fleet.totals.busy_s == 6.25
    assert (fleet.totals.wait_sum_s, fleet.totals.ttft_sum_s) == (0.0, 2.0)
    assert fleet.totals.itl_mean_s == pytest.approx((4.5 + 2.75) / 7)


def test_a_request_of_one_token_leaves_with_its_own_prefill() -> None:
    """It does not wait for the prefill that came in after it."""
    fleet = fleet_of(1)

    fleet.advance(1.5, [0.0, 0.5], [100, 300], [1, 1])

    assert fleet.running_per_slot().tolist() == [1]
    fleet.advance(10.0, *NOBODY)
    assert fleet.totals.busy_s == 4.0


def test_excess_waits_where_a_new_replica_can_take_it() -> None:
    """Backlog beyond a second stays in the central queue; a replica activated at 2 s takes it at once."""
    fleet = Fleet(SERVICE, 2, 2.0, 100.0, 10.0)
    fleet.activate(0, 0.0)
    fleet.advance(2.0, [0.0, 0.1, 0.2], [400, 400, 400], [2, 2, 2])
    assert (fleet.totals.queued, fleet.totals.queued_prompt_tokens, fleet.totals.dispatched) == (2, 800.0, 1)

    fleet.activate(1, 2.0)
    fleet.advance(2.5, *NOBODY)

    assert fleet.running_per_slot().tolist() == [1, 1]
    assert fleet.totals.wait_sum_s == pytest.approx(1.9)
    # The third goes to slot 0 once its backlog is a second, and waits for its turn there.
    fleet.advance(3.5, *NOBODY)
    assert fleet.running_per_slot().tolist() == [2, 1]
    assert fleet.totals.wait_sum_s == pytest.approx(1.9 + 3.8)
    assert fleet.totals.misses == 1


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    """The head does not fit beside the first; the one behind it would, and waits all the same."""
    fleet = fleet_of(1)

    fleet.advance(3.0, [0.0, 1.0, 2.0], [100, 995, 10], [9, 2, 2])

    assert (fleet.totals.queued, fleet.totals.running) == (2, 1)
    fleet.finish()
    # The first ends at 1 + 8 x 0.75 = 7, the second has its prefill till 16.95 and ends at 17.7; the
    # third could line up behind that prefill from 15.95 on, but does not fit either.
    assert fleet.totals.wait_sum_s == pytest.approx(0.0 + 6.0 + 15.7)


def test_a_request_too_large_for_the_limit_runs_alone() -> None:
    fleet = fleet_of(1)

    fleet.advance(60.0, [0.0, 0.1], [3000, 10], [2, 2])

    assert fleet.totals.completed == 2
    assert fleet.totals.wait_sum_s == pytest.approx(30.75 - 0.1)


def test_a_wait_of_exactly_the_slo_is_no_miss() -> None:
    """Prefills [0, 2), [2, 3) and [3, 4) of three that came at once, with 2 s allowed."""
    fleet = fleet_of(1, SERVICE.model_copy(update={"max_num_seqs": 3}))

    fleet.advance(5.0, [0.0, 0.0, 0.0], [200, 100, 100], [2, 2, 2])

    assert (fleet.totals.wait_sum_s, fleet.totals.wait_max_s, fleet.totals.misses) == (5.0, 3.0, 1)


def test_a_queue_that_outgrows_its_room_keeps_its_order() -> None:
    """Served one a second while 3,000 more pile up: each second takes the next in line, by its size."""
    service = SERVICE.model_copy(update={"max_num_seqs": 1, "prefill_base_s": 1.0, "prefill_tokens_per_s": math.inf})
    fleet = fleet_of(1, service)
    sizes = np.arange(1.0, 3_501.0)
    early = 500
    fleet.advance(200.5, np.zeros(early), sizes[:early], np.ones(early))

    fleet.advance(201.5, np.full(3_000, 201.2), sizes[early:], np.ones(3_000))

    for served in range(202, 3_500):
        assert fleet.totals.queued_prompt_tokens == sizes[served:].sum()
        fleet.advance(served + 0.5, *NOBODY)


def test_a_drained_replica_takes_nothing_and_says_when_it_was_empty() -> None:
    """Draining, second thoughts, draining again, off, and on again: one slot's life."""
    fleet = fleet_of(1)
    fleet.advance(1.0, [0.0], [100], [5])
    fleet.drain(0, 1.0)
    fleet.advance(2.0, [1.5], [100], [5])
    assert (fleet.totals.queued, fleet.modes().tolist()) == (1, [DRAINING])

    fleet.undrain(0, 2.0)
    fleet.advance(2.5, *NOBODY)
    assert (fleet.totals.queued, fleet.take_drained()) == (0, [])

    fleet.drain(0, 2.5)
    fleet.advance(50.0, *NOBODY)
    [(slot, empty_s)] = fleet.take_drained()
    assert (slot, fleet.totals.completed, fleet.take_drained()) == (0, 2, [])
    assert empty_s == pytest.approx(fleet.totals.busy_s)

    fleet.activate(0, 50.0)
    fleet.drain(0, 50.0)
    assert fleet.take_drained() == [(0, 50.0)]


@pytest.mark.parametrize(("verb", "slot"), [("activate", 0), ("undrain", 0), ("drain", 1), ("drain", 7)])
def test_a_refused_order_changes_nothing(verb: str, slot: int) -> None:
    """Slot 0 serves, slot 1 is off, slot 7 does not exist."""
    fleet = Fleet(SERVICE, 2, 2.0, 100.0, 10.0)
    fleet.activate(0, 0.0)

    with pytest.raises(ValueError, match="slot"):
        getattr(fleet, verb)(slot, 0.0)

    assert fleet.modes().tolist() == [SERVING, OFF]


@pytest.mark.parametrize("times", [[2.0, 1.0], [0.5, math.nan], [math.nan], [-1.0], [5.0]], ids=str)
def test_arrivals_out_of_order_or_out_of_the_piece_are_refused(times: list[float]) -> None:
    fleet = fleet_of(1)

    with pytest.raises(ValueError, match="arrivals must be sorted"):
        fleet.advance(5.0, times, [1] * len(times), [1] * len(times))

    assert (fleet.now_s, fleet.totals.arrived) == (0.0, 0)


def test_time_does_not_go_back_nor_on_after_the_end() -> None:
    fleet = fleet_of(1)
    fleet.advance(5.0, *NOBODY)
    with pytest.raises(ValueError, match="cannot advance"):
        fleet.advance(4.0, *NOBODY)
    with pytest.raises(ValueError, match="stands at"):
        fleet.drain(0, 4.0)

    fleet.finish()

    with pytest.raises(ValueError, match="cannot advance"):
        fleet.advance(6.0, *NOBODY)


def test_requests_that_nobody_will_serve_are_booked_once_their_time_has_passed() -> None:
    """No replica at all: at 10 s the first has waited past 2 s, the second has not yet."""
    fleet = Fleet(SERVICE, 1, 2.0, 100.0, 10.0)
    fleet.advance(10.0, [1.0, 9.0], [10, 10], [2, 2])

    assert fleet.finish() == 10.0
    assert (fleet.totals.misses, fleet.totals.queued, fleet.totals.arrived, fleet.totals.completed) == (1, 2, 2, 0)
    assert fleet.bucket_misses.sum() == 1


def test_samples_tell_counts_within_and_gauges_at_the_end_of_each_second() -> None:
    """An event at the very end of a period belongs to the next."""
    fleet = fleet_of(1)
    fleet.advance(0.5, [0.0], [100], [2])
    fleet.advance(3.0, [0.5, 1.0], [150, 50], [2, 2])

    rows = [dict(zip(SAMPLE_FIELDS, row, strict=True)) for row in fleet.take_samples().tolist()]

    # Prefills [0, 1) and [1, 2.5); the batch of two is full, so the third is queued.
    nothing = dict.fromkeys(SAMPLE_FIELDS, 0.0)
    waiting = {"running": 2.0, "queued": 1.0, "queued_prompt_tokens": 50.0}
    assert rows == [
        nothing | {"arrived": 2.0, "prompt_tokens": 250.0, "running": 2.0},
        nothing | {"arrived": 1.0, "prompt_tokens": 50.0} | waiting,
        nothing | waiting,
    ]


def random_load(seed: int, count: int, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integral sizes and many equal times, so that ties are common."""
    rng = np.random.default_rng(seed)
    times = np.round(np.cumsum(rng.exponential(1.0 / rate, count)), 1)
    return times, rng.integers(1, 200, count).astype(np.int32), rng.integers(1, 9, count).astype(np.int32)


def everything(fleet: Fleet) -> list[object]:
    """Return all that a fleet has counted, for exact comparison."""
    fields = (fleet.bucket_arrived, fleet.bucket_misses, fleet.wait.counts, fleet.ttft.counts)
    arrays = [*fields, fleet.take_samples(), fleet.running_per_slot()]
    # As text: two NaN, such as the mean of nothing, are the same.
    return [repr(fleet.totals), fleet.now_s, fleet.take_drained(), *(a.tolist() for a in arrays)]


@FAST
@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(1, 6),
    rate=st.sampled_from([0.5, 2.0, 8.0]),
    cuts=st.lists(st.floats(0, 60), max_size=12),
)
def test_cutting_time_into_pieces_changes_nothing(seed: int, slots: int, rate: float, cuts: list[float]) -> None:
    """To the last bit, whether or not the cuts fall on arrivals and sample periods."""
    times, prompts, outputs = random_load(seed, 80, rate)
    end_s = max(float(times[-1]), 60.0) + 1.0
    whole, pieces = fleet_of(slots), fleet_of(slots)

    whole.advance(end_s, times, prompts, outputs)
    for begin, end in pairwise([0.0, *sorted([*cuts, float(times[len(times) // 2])]), end_s]):
        inside = slice(np.searchsorted(times, begin), np.searchsorted(times, end))
        pieces.advance(end, times[inside], prompts[inside], outputs[inside])

    whole.finish()
    pieces.finish()
    assert everything(pieces) == everything(whole)


def test_equal_runs_are_equal_through_long_queues_and_many_pieces() -> None:
    """Determinism over 150,000 requests at twice the load: the queue grows past its first room."""
    times, prompts, outputs = random_load(7, 150_000, 4.0)

    def run(order: str) -> list[object]:
        fleet = Fleet(SERVICE, 4, 2.0, float(times[-1]), 3600.0, 60.0)
        for slot in range(4):
            fleet.activate(slot, 0.0)
        # Neither the number type nor the memory layout of the input may matter.
        given = [np.asarray(a, order) for a in (prompts, outputs)]
        frozen = np.repeat(times, 2)[::2]
        frozen.flags.writeable = False
        fleet.advance(float(times[-1]) + 1, frozen, *given)
        assert fleet.totals.queued > 10_000
        fleet.finish()
        return everything(fleet)

    assert run("int32") == run("float64")


@FAST
@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(1, 5),
    rate=st.sampled_from([0.5, 3.0]),
    drains=st.integers(0, 4),
)
def test_every_request_ends_and_is_counted_once(seed: int, slots: int, rate: float, drains: int) -> None:
    """Conservation: arrived = completed, in totals, buckets, samples and histograms, drains or not."""
    times, prompts, outputs = random_load(seed, 100, rate)
    fleet = fleet_of(slots)
    fleet.advance(5.0, *(a[times < 5.0] for a in (times, prompts, outputs)))
    for slot in range(min(drains, slots - 1)):
        fleet.drain(slot, 5.0)
    held = fleet.running_per_slot()
    fleet.advance(1000.0, *(a[times >= 5.0] for a in (times, prompts, outputs)))
    samples = fleet.take_samples()

    fleet.finish()

    assert fleet.totals.arrived == fleet.totals.dispatched == fleet.totals.completed == 100
    assert (fleet.totals.queued, fleet.totals.running, fleet.running_per_slot().sum()) == (0, 0, 0)
    assert fleet.totals.prompt_tokens == prompts.sum() == samples[:, 1].sum()
    assert fleet.totals.output_tokens == outputs.sum() == samples[:, 3].sum()
    assert samples[:, 0].sum() == samples[:, 2].sum() == 100
    assert fleet.wait.total == fleet.ttft.total == fleet.bucket_arrived.sum() == 100
    assert fleet.summary().completed == 100
    assert fleet.bucket_misses.sum() == fleet.totals.misses
    assert sorted(s for s, _ in fleet.take_drained()) == list(range(min(drains, slots - 1)))
    assert held.max() <= SERVICE.max_num_seqs


@FAST
@given(seed=st.integers(0, 10_000), slots=st.integers(1, 5), rate=st.sampled_from([1.0, 4.0]))
def test_nobody_idles_while_requests_wait(seed: int, slots: int, rate: float) -> None:
    """Work conservation: with a queue, every replica runs all it may or has prefill enough before it."""
    times, prompts, outputs = random_load(seed, 100, rate)
    fleet = fleet_of(slots, SERVICE.model_copy(update={"kv_tokens_limit": 1e9, "max_prefill_backlog_s": 1e9}))

    for begin, end in pairwise(np.arange(0.0, float(times[-1]) + 0.7, 0.35).tolist()):
        inside = (times >= begin) & (times < end)
        fleet.advance(end, times[inside], prompts[inside], outputs[inside])
        assert fleet.totals.queued == 0 or fleet.running_per_slot().tolist() == [SERVICE.max_num_seqs] * slots

    fleet.finish()
    assert fleet.totals.busy_s >= float(SERVICE.least_work(prompts, outputs).sum()) * (1 - 1e-12)


@FAST
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([1.0, 4.0]))
def test_more_replicas_never_make_the_mean_request_wait_longer(seed: int, rate: float) -> None:
    """Holds here because requests are equal; unequal ones allow anomalies, as in any such queue."""
    times, _, _ = random_load(seed, 100, rate)
    waits = []
    for slots in (1, 2, 4, 8):
        fleet = fleet_of(slots, SERVICE.model_copy(update={"max_num_seqs": 1}))
        fleet.advance(float(times[-1]) + 1, times, np.full(100, 50), np.full(100, 3))
        fleet.finish()
        waits.append(fleet.totals.wait_sum_s)

    assert waits == sorted(waits, reverse=True)


@FAST
@given(st.lists(st.floats(2e-4, 5e3), min_size=20, max_size=200), st.floats(1, 99))
def test_percentiles_of_the_histogram_are_within_a_bin_of_the_samples(seconds: list[float], percent: float) -> None:
    counts = np.zeros(514, np.int64)
    for value in seconds:
        counts[1 + int(64 * math.log10(value / 1e-4))] += 1

    told = LatencyHistogram(counts).percentile(percent)

    true = np.percentile(seconds, percent, method="inverted_cdf")
    assert abs(math.log10(told / true)) <= 1.01 / 64


def test_percentiles_by_bucket_and_from_a_moment_on() -> None:
    """Ten seconds of light load, then ten of heavy: the second bucket's tail is its own."""
    service = load_service("llama-3.1-8b-h100")
    rng = np.random.default_rng(0)
    times = np.sort(np.concatenate([rng.uniform(0, 10, 50), rng.uniform(10, 20, 2000)]))
    fleet = Fleet(service, 1, 0.5, 20.0, 10.0)
    fleet.activate(0, 0.0)
    fleet.advance(20.0, times, np.full(2050, 500), np.full(2050, 100))
    fleet.finish()

    median, tail = fleet.bucket_ttft_percentiles((50.0, 99.0))
    late = fleet.summary(10.0)

    assert median[0] < 0.1 < median[1] < tail[1]
    assert (late.arrived, late.misses) == (2000, fleet.totals.misses)
    assert late.ttft.percentile(99.0) == tail[1]
    assert fleet.totals.ttft_sum_s == pytest.approx(late.ttft_mean_s * 2000 + median[0] * 50, rel=0.001)
    assert fleet.summary().ttft.bins_per_decade == 64
