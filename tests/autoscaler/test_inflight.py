"""What was asked for counts until the cluster shows it, and what failed waits: on views that lag, and answers lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.acting.inflight import EXPECTED_FOR_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, Flight
from autoscaler.forecast import SamplePathForecaster
from autoscaler.outcomes import Conflict, Done, Failed, InFlight, Outcome, Refused, Unknown
from policies.actions import Action, ActionKind
from policies.baselines.hpa import HpaPolicy
from policies.decide import ForethawPolicy
from policies.leadtime import LeadTime
from policies.reasons import ReasonCode
from policies.types import Phase, Policy
from tests.autoscaler.odd_clusters import Answering, Lagging
from tests.autoscaler.quiet_pools import SUPPLY, Fixed, Pool, key, ladder, managed, quiet_pool

A = key("a")
LAGS = [1, 2, 3, 4]
SLOW_SUPPLY = (SUPPLY[0], replace(SUPPLY[1], lead_time=LeadTime((30.0,))))
"""GPUs may be waited for 90 s: longer than four of the HPA's passes."""


def stepped_up(policy: Policy[Any], lag: int) -> tuple[Pool, list[int]]:
    """One replica serves its load for twenty passes, then seven replicas of demand arrive: plans of five passes."""
    forecaster = SamplePathForecaster(seed=1, n_paths=40)
    pool = quiet_pool(
        (managed("a"),),
        policy,
        gpus=64,
        first={"a": 1},
        supply=SLOW_SUPPLY,
        forecaster=forecaster,
        seen_as=partial(Lagging, lag=lag),
    )
    pool.load.put("a", 0.0, offered_requests=5.0)
    before = pool.steps(20 * policy.interval_s)
    pool.load.put("a", before[-1].now_s, offered_requests=70.0)
    return pool, [r.plan.targets[A].active for r in pool.steps(25 * policy.interval_s)]


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("policy", [ForethawPolicy(), HpaPolicy()], ids=["forethaw", "hpa"])
def test_five_passes_on_a_view_that_lags_create_exactly_the_replicas_planned(policy: Policy[Any], lag: int) -> None:
    """As many as without the lag, asked for by the same plans: none twice, and none less for being unseen."""
    at_once, wanted = stepped_up(policy, 0)
    lagging, planned = stepped_up(policy, lag)

    assert planned == wanted
    assert wanted[-1] >= 7
    assert len(at_once.world.replicas[A]) == len(lagging.world.replicas[A]) == wanted[-1]


plans = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 2), st.integers(0, 3))
"""Replicas of `a` and, at two GPUs each, of `b`; parked replicas of `a`; GPUs kept free."""


@given(lag=st.integers(0, 4), planned=st.lists(plans, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_lagging_cluster_comes_to_the_last_plan_whatever_was_planned_before(
    lag: int, planned: list[tuple[int, int, int, int]]
) -> None:
    """Counts that rise and fall within the lag: never more replicas than the largest plan, in the end those planned."""
    policy = Fixed({"a": 0, "b": 0})
    pool = quiet_pool((managed("a"), managed("b", gpus=2)), policy, gpus=24, seen_as=partial(Lagging, lag=lag))
    most = {"a": 0, "b": 0}
    for a, b, parked, spare in (*planned, *[planned[-1]] * (4 * lag + 14)):
        policy.active, policy.parked, policy.spare = {"a": a, "b": b}, {"a": parked}, spare
        most = {"a": max(most["a"], a), "b": max(most["b"], b)}
        pool.step(pool.due_s)
        assert all(len(pool.names(name)) <= n for name, n in most.items())

    a, b, parked, spare = planned[-1]
    assert (len(pool.names("a", Phase.ACTIVE)), len(pool.names("b", Phase.ACTIVE))) == (a, b)
    # On free GPUs alone are replicas started in order to park.
    assert len(pool.names("a", Phase.PARKED)) in ({parked} if spare else range(parked + 1))
    nodes = pool.world.observe(pool.due_s).nodes
    assert (sum(n.free_gpus for n in nodes), sum(n.reclaiming_gpus for n in nodes)) == (spare, 0)
    assert pool.state.flight.expected == ()


def answering(pool: Pool) -> Answering:
    cluster = pool.ports.cluster
    assert isinstance(cluster, Answering)
    return cluster


def started(name: str, answer: Outcome, *, times: int = 1000, obeys: bool = False) -> Any:
    """A cluster that gives `answer` to the first `times` starts of replica `name`."""
    left = [times]

    def answers(action: Action, now_s: float) -> Outcome | None:
        if (action.kind, action.replica) != (ActionKind.START, name) or not left[0]:
            return None
        left[0] -= 1
        return answer

    return lambda cluster: Answering(cluster, answers, obeys)


@pytest.mark.parametrize("setback", [Refused("quota"), Failed("no answer from the node")])
def test_a_refused_or_failed_action_waits_twice_as_long_each_time_up_to_a_minute(setback: Outcome) -> None:
    """And the target's other actions do not wait with it."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 3}), first={"a": 1}, seen_as=started("a-1", setback))

    pool.steps(190.0)

    asked = answering(pool).when("start/default/a-1/node-000")
    assert asked == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 124.0, 184.0]
    assert (FIRST_PAUSE_S, LONGEST_PAUSE_S) == (2.0, 60.0)
    assert pool.names("a", Phase.ACTIVE) == ["a-0", "a-2"]


def test_a_pause_begins_anew_after_a_success() -> None:
    """a-1 fails twice, starts, is stopped, and fails again: its next pause is the first one again."""
    policy = Fixed({"a": 2})
    failures: dict[float, Outcome] = {2.0: Failed("once"), 4.0: Failed("twice"), 20.0: Failed("anew")}
    pool = quiet_pool(
        (managed("a"),),
        policy,
        first={"a": 1},
        seen_as=lambda c: Answering(c, lambda a, t: failures.get(t) if a.replica == "a-1" else None),
    )

    pool.steps(16.0)
    policy.active = {"a": 1}
    pool.step(18.0)
    policy.active = {"a": 2}
    pool.steps(24.0)

    assert answering(pool).when("start/default/a-1/node-000") == [2.0, 4.0, 8.0, 20.0, 22.0]


def test_a_conflict_is_dropped_and_asked_for_again_by_the_next_pass() -> None:
    pool = quiet_pool((managed("a"),), Fixed({"a": 2}), first={"a": 1}, seen_as=started("a-1", Conflict("x"), times=2))

    pool.steps(10.0)

    assert answering(pool).when("start/default/a-1/node-000") == [2.0, 4.0, 6.0]
    assert pool.names("a") == ["a-0", "a-1"]


@pytest.mark.parametrize("lag", LAGS)
def test_an_action_without_an_answer_counts_as_in_force_until_the_view_shows_it(lag: int) -> None:
    """The answer is lost, the start is not: it is not asked for twice."""
    seen_as = started("a-1", Unknown("timed out"), obeys=True)
    pool = quiet_pool((managed("a"),), Fixed({"a": 2}), first={"a": 1}, seen_as=lambda c: seen_as(Lagging(c, lag)))

    pool.steps(20.0)

    assert answering(pool).when("start/default/a-1/node-000") == [2.0]
    assert pool.names("a", Phase.ACTIVE) == ["a-0", "a-1"]


def test_a_start_that_was_lost_is_capacity_until_its_allowance_and_then_replaced_once() -> None:
    """Neither the start nor its answer arrives. Its GPUs are due within 3 times 4 s, so at 16 s another is started."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 2}), first={"a": 1}, seen_as=started("a-1", Unknown("timed out")))

    counted = {r.now_s: r.given.observed[A].current for r in pool.steps(60.0)}

    by_replica = Counter((a.kind, a.replica) for _, a in answering(pool).asked if a.target == A)
    assert by_replica == {(ActionKind.START, "a-1"): 1, (ActionKind.STOP, "a-1"): 1, (ActionKind.START, "a-2"): 1}
    assert {t for t, n in counted.items() if n == 1} == {2.0, 16.0}
    assert pool.names("a", Phase.ACTIVE) == ["a-0", "a-2"]


def test_expectations_expire_after_five_minutes() -> None:
    """A stop is accepted and never happens: the replica counts as draining for five minutes, then it is asked again."""

    def accepted(action: Action, now_s: float) -> Outcome | None:
        return Done() if action.kind is ActionKind.STOP else None

    pool = quiet_pool((managed("a"),), Fixed({"a": 1}), first={"a": 2}, seen_as=lambda c: Answering(c, accepted))

    seen = {r.now_s: r.given.observed[A] for r in pool.steps(304.0)}

    assert EXPECTED_FOR_S == 300.0
    assert answering(pool).when("stop/default/a-0") == [2.0, 302.0]
    assert {(s.active, s.draining) for t, s in seen.items() if 2.0 < t < 302.0} == {(1, 1)}
    assert (seen[302.0].active, seen[302.0].draining) == (2, 0)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_a_start_that_hangs_is_no_capacity_past_its_deadline_and_is_replaced_exactly_once(lag: int) -> None:
    """Restores take 1 s and cold starts 60 s, so a restore may take 183 s: a-1, which never ends, is given up then."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 2}), first={"a": 1}, seen_as=lambda c: Answering(Lagging(c, lag)))
    sound = pool.world.specs[A]
    pool.world.specs[A] = replace(sound, ladder=ladder(restore_s=1e6))
    pool.steps(20.0)
    pool.world.specs[A] = sound
    hangs = pool.world.replicas[A]["a-1"]

    pool.steps(260.0)

    assert (hangs.phase, hangs.since_s) == (Phase.STARTING, 6.0)
    cancelled_s, started_s = (answering(pool).when(n) for n in ("stop/default/a-1", "start/default/a-2/node-000"))
    assert cancelled_s == started_s == [190.0]
    record = next(r for r in pool.kept.records if r.now_s == 190.0)
    assert (record.given.observed[A].starting, record.given.observed[A].current) == (0, 1)
    assert next(a for a in record.actions if a.kind is ActionKind.STOP).reason.code is ReasonCode.START_OVERDUE
    assert pool.names("a", Phase.ACTIVE) == ["a-0", "a-2"]
    assert "a-1" not in pool.world.replicas[A]


def test_a_deadline_given_with_a_start_is_the_moment_from_which_it_is_no_capacity() -> None:
    """The start's own deadline covers its GPUs and its restore: 12 s and 183 s from the decision."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 1}))
    record = pool.step(2.0)

    outcomes = record.outcomes or {}
    assert outcomes["start/default/a-0/node-000"] == InFlight(2.0 + 3 * 4.0 + 3 * 61.0)


def test_nothing_is_expected_of_a_cluster_that_shows_its_writes_at_once() -> None:
    pool = quiet_pool((managed("a"),), Fixed({"a": 3}, spare=2), first={"a": 1})
    pool.steps(20.0)

    assert pool.state.flight == Flight()
