"""Lead times learnt from what passes see: every start is observed once, as a cluster's pods would show it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autoscaler.leadtimes.book import LeadTimeBook
from autoscaler.leadtimes.learning import LEARN_EVERY_S
from autoscaler.leadtimes.observation import StartObservation, StartOutcome
from autoscaler.leadtimes.parts import LeadTimeFile, Part, load_lead_times
from autoscaler.leadtimes.records import Records
from policies.keys import TargetKey
from policies.leadtime import LeadTime
from policies.types import COLD, STAGED, Phase, PoolSpec, TierSpec
from simulations.replay import Run
from tests.autoscaler.quiet_pools import MODEL, SUPPLY, Fixed, Pool, key, managed, of_model, quiet_cluster, quiet_pool
from tests.autoscaler.small_worlds import run, scenario

A, B = key("a"), key("b")
H100 = load_lead_times("h100")


def learning(policy: Fixed, *names: str, **changes: Any) -> Pool:
    """A pool whose world has one lead time for each way, and whose book begins with the H100's."""
    targets = tuple(managed(name) for name in names or ("a",))
    return quiet_pool(targets, policy, lead_times=H100, **changes)


def book_of(pool: Pool) -> LeadTimeBook:
    """The book with what waits to enter it."""
    learnt = pool.state.learning.learnt(frozenset(pool.config.keys), pool.last.now_s).book
    assert learnt is not None
    return learnt


def records(pool: Pool, path: str, of: TargetKey | None = A, model: str = MODEL) -> Records:
    return book_of(pool).records.get(of, {}).get((path, model), Records())


def ended(held: Records) -> list[tuple[StartOutcome, float]]:
    return [(r.outcome, round(r.elapsed_s, 6)) for r in held.ended]


def with_ladder(pool: Pool, **lead_times: LeadTime) -> None:
    """Let the world's tiers have other lead times."""
    sound = pool.world.specs[A]
    rungs: tuple[TierSpec, ...] = tuple(
        replace(t, lead_time=lead_times[t.name]) if t.name in lead_times else t for t in sound.ladder
    )
    pool.world.specs[A] = replace(sound, ladder=rungs)


def test_a_restore_shorter_than_a_tick_is_observed_with_its_own_length() -> None:
    """On free GPUs a-0 is asked for at 8 s and serves at 9 s; the pass of 10 s sees it serving already."""
    policy = Fixed({"a": 0}, spare=1)
    pool = learning(policy)
    pool.steps(6.0)
    policy.active = {"a": 1}
    pool.steps(10.0)

    assert pool.names("a", Phase.ACTIVE) == ["a-0"]
    assert ended(records(pool, STAGED)) == [(StartOutcome.SUCCEEDED, 1.0)]


def test_a_start_that_takes_many_ticks_is_observed_once() -> None:
    policy = Fixed({"a": 1}, spare=1)
    pool = learning(policy)
    with_ladder(pool, staged=LeadTime((7.3,)))
    pool.steps(60.0)

    assert ended(records(pool, STAGED)) == [(StartOutcome.SUCCEEDED, 7.3)]


def test_a_failed_restore_with_the_cold_start_after_it_is_a_failure_and_a_success() -> None:
    """The restore fails after 1 s; the cold start that follows it takes 33 s of its own."""
    pool = learning(Fixed({"a": 1}))
    with_ladder(pool, staged=LeadTime((1.0,), failure_probability=1.0, after_failure_s=(33.0,)))
    pool.steps(60.0)

    assert pool.names("a", Phase.ACTIVE) == ["a-0"]
    assert ended(records(pool, STAGED)) == [(StartOutcome.FAILED, 1.0)]
    assert ended(records(pool, COLD)) == [(StartOutcome.SUCCEEDED, 33.0)]
    assert (records(pool, STAGED).pending, records(pool, COLD).pending) == ((), ())


def test_a_pending_start_is_censored_once_it_is_late_and_replaced_by_its_outcome() -> None:
    """The prior's restore takes a second or two; ten seconds of waiting say that this one takes longer than that."""
    pool = learning(Fixed({"a": 1}))
    with_ladder(pool, staged=LeadTime((20.0,)))
    pool.steps(14.0)
    pending = records(pool, STAGED)
    pool.steps(30.0)

    assert pending.ended == ()
    assert [(r.outcome, r.elapsed_s) for r in pending.pending] == [(StartOutcome.PENDING, 8.0)]
    assert ended(records(pool, STAGED)) == [(StartOutcome.SUCCEEDED, 20.0)]
    assert records(pool, STAGED).pending == ()


def test_a_cancelled_start_teaches_only_what_was_seen_of_it() -> None:
    """Cancelled while late it was censored at its last sighting; cancelled at once it has taught nothing."""
    policy = Fixed({"a": 1})
    pool = learning(policy)
    with_ladder(pool, staged=LeadTime((1000.0,)))
    pool.steps(20.0)
    policy.active = {"a": 0}
    pool.steps(40.0)
    policy.active = {"a": 1}
    pool.steps(42.0)
    policy.active = {"a": 0}
    pool.steps(60.0)

    held = records(pool, STAGED)
    assert held.ended == ()
    # Starting since 6 s; the pass of 22 s saw it a last time before it cancelled it.
    assert [(r.outcome, r.elapsed_s) for r in held.pending] == [(StartOutcome.PENDING, 16.0)]


@pytest.mark.parametrize("reclaim_s", [9.5, 4.0, 1.5, 0.6])
def test_the_wait_for_gpus_is_observed_by_its_supply_step_and_not_as_part_of_the_restore(reclaim_s: float) -> None:
    """However short: a wait that is over before the next pass is no less a wait. The restore takes 2.5 s."""
    supply = (SUPPLY[0], replace(SUPPLY[1], lead_time=LeadTime((reclaim_s,))))
    targets = (managed("a"),)
    world = quiet_cluster((targets[0].spec,), 16, supply)
    pool = learning(Fixed({"a": 1}), world=world, pool=PoolSpec("pool", MODEL, supply))
    with_ladder(pool, staged=LeadTime((2.5,)))
    pool.steps(30.0)

    assert ended(records(pool, "lent", None)) == [(StartOutcome.SUCCEEDED, reclaim_s)]
    assert ended(records(pool, STAGED)) == [(StartOutcome.SUCCEEDED, 2.5)]


def test_a_start_that_is_to_be_parked_is_not_followed() -> None:
    """It takes longer by the parking, so it says nothing of a wake."""
    pool = learning(Fixed({"a": 0}, spare=2, parked={"a": 1}))
    pool.steps(30.0)

    assert len(pool.names("a", Phase.PARKED)) == 1
    assert records(pool, STAGED) == Records()


def test_a_promotion_is_a_start_from_the_parked_tier() -> None:
    policy = Fixed({"a": 0}, spare=2, parked={"a": 1})
    pool = learning(policy)
    pool.steps(20.0)
    policy.active, policy.parked = {"a": 1}, {}
    pool.steps(24.0)

    assert ended(records(pool, "parked")) == [(StartOutcome.SUCCEEDED, 0.5)]


def test_outcomes_enter_the_ladder_within_a_quarter_of_a_minute_and_leave_with_their_target() -> None:
    policy = Fixed({"a": 1, "b": 1})
    pool = learning(policy, "a", "b")
    pool.steps(8.0 + LEARN_EVERY_S + 2.0)
    book = pool.state.learning.book
    assert book is not None
    assert set(book.records) == {None, A, B}

    pool.config = replace(pool.config, targets=pool.config.targets[:1])
    pool.steps(8.0 + 2 * LEARN_EVERY_S + 4.0)
    book = pool.state.learning.book
    assert book is not None
    assert set(book.records) == {None, A}


def test_a_book_holds_the_gpu_models_apart() -> None:
    """What an H200 shows leaves an H100's ladder as the file has it, for the same target and for others."""
    other = LeadTimeBook(H100).observe_all(
        StartObservation(A, STAGED, "h200", StartOutcome.SUCCEEDED, 50.0, f"a-{i}@0", float(i), 1, 0)
        for i in range(100)
    )
    plain = LeadTimeBook(H100)

    assert other.ladder(A, 1, 0, "h200", restored=True) != plain.ladder(A, 1, 0, "h200", restored=True)
    for of in (A, B):
        assert other.ladder(of, 1, 0, MODEL, restored=True) == plain.ladder(of, 1, 0, MODEL, restored=True)


def test_pools_of_two_gpu_models_learn_apart() -> None:
    """Restores take 1 s on one model and 6 s on the other; each pool's records bear its own model."""
    targets = (managed("a"), managed("b"))
    world = quiet_cluster(tuple(t.spec for t in targets), 32)
    of_model(world, "h200", "node-002", "node-003")
    slow = world.specs[B]
    rungs = tuple(replace(t, lead_time=LeadTime((6.0,))) if t.name == STAGED else t for t in slow.ladder)
    world.specs[B] = replace(slow, ladder=rungs)
    first = quiet_pool(targets[:1], Fixed({"a": 3}), world=world, lead_times=H100)
    second = quiet_pool(
        targets[1:], Fixed({"b": 3}), world=world, lead_times=H100, pool=PoolSpec("second", "h200", SUPPLY)
    )
    for now_s in np.arange(2.0, 42.0, 2.0):
        first.step(float(now_s))
        second.step(float(now_s))

    assert ended(records(first, STAGED)) == [(StartOutcome.SUCCEEDED, 1.0)] * 3
    assert ended(records(second, STAGED, B, "h200")) == [(StartOutcome.SUCCEEDED, 6.0)] * 3
    for pool, model in ((first, MODEL), (second, "h200")):
        assert {path[1] for held in book_of(pool).records.values() for path in held} == {model}


def _slower(part: Part, times: float) -> Part:
    assert part.median_s is not None
    assert part.p95_s is not None
    return part.model_copy(update={"median_s": part.median_s * times, "p95_s": part.p95_s * times})


RESTORE_PARTS = ("trigger", "gate", "cuda_restore", "restore_memory")


def wrong_prior(of: LeadTimeFile, times: float) -> LeadTimeFile:
    """The file with restores `times` as long."""
    parts = {name: _slower(getattr(of.parts, name), times) for name in RESTORE_PARTS}
    rates = of.rates.model_copy(update={"holder_bytes_per_s": of.rates.holder_bytes_per_s / times})
    return of.model_copy(update={"parts": of.parts.model_copy(update=parts), "rates": rates})


def staged_s(ladder: tuple[TierSpec, ...]) -> float:
    """The median of an attempt from `staged`, in seconds."""
    lead_time = next(t.lead_time for t in ladder if t.name == STAGED)
    return float(np.median(lead_time.quantiles_s))


@pytest.mark.parametrize("times", [3.0, 1.0 / 3.0])
def test_within_an_hour_a_prior_wrong_by_a_factor_of_three_gives_way_to_what_the_world_shows(times: float) -> None:
    """The median of `staged` that passes plan with ends within three tenths of the world's: the file's is overruled."""
    made: Run = run(scenario(duration_s=3600.0), "knative")
    assert made.config.lead_times is not None
    made.config = replace(made.config, lead_times=wrong_prior(made.config.lead_times, times))
    true_s = {t.spec.key: staged_s(t.spec.ladder) for t in made.config.targets}
    kept: list[dict[TargetKey, float]] = []
    made.recorder._keep = lambda record: kept.append({t.key: staged_s(t.ladder) for t in record.given.targets})
    made.to_end()

    starts = {k: by_tier.get(STAGED, 0) for k, by_tier in made.cluster.starts.items()}
    assert min(starts.values()) >= 15
    for of, right_s in true_s.items():
        assert kept[0][of] == pytest.approx(times * right_s, rel=0.05)
        assert kept[-1][of] == pytest.approx(right_s, rel=0.3)
