"""One pass: what it reads, what it holds, what it asks for and hands on; time is only ever an argument."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from autoscaler.errors import NotSyncedError, PortError
from autoscaler.outcomes import InFlight, Outcome
from autoscaler.planbook import PlanEntry
from autoscaler.ports import ClusterView, MetricFrame, PassRecord
from autoscaler.reconcile import Ports, reconcile
from policies.actions import Action, ActionKind
from policies.capacity import WorkRate
from policies.contract import Violation, gpus_of
from policies.keys import TargetKey
from policies.reasons import ReasonCode
from policies.types import Plan, TargetPlan
from tests.autoscaler.quiet_pools import Fixed, Pool, key, managed, quiet_pool

A, B = key("a"), key("b")


@dataclass
class Logged:
    """All ports of a pool, each call by name in `calls`."""

    to: Ports[Any]
    calls: list[str]

    def observe(self, now_s: float) -> ClusterView:
        self.calls.append("observe")
        return self.to.cluster.observe(now_s)

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        self.calls.append("apply")
        return self.to.cluster.apply(actions, now_s)

    def read(self, keys: Collection[TargetKey], after_s: float, until_s: float) -> MetricFrame:
        self.calls.append("read")
        return self.to.metrics.read(keys, after_s, until_s)

    def begin(self, record: PassRecord) -> None:
        self.calls.append("begin")
        self.to.recorder.begin(record)

    def complete(self, record: PassRecord) -> None:
        self.calls.append("complete")
        self.to.recorder.complete(record)

    def last(self, pool: str) -> PassRecord | None:
        return self.to.recorder.last(pool)

    def publish(self, entry: PlanEntry) -> None:
        self.calls.append("publish")
        self.to.readers.publish(entry)


def logged(pool: Pool) -> list[str]:
    """Put a log before all ports of `pool`."""
    log = Logged(pool.ports, [])
    pool.ports = Ports(log, log, pool.ports.forecaster, log, log)
    return log.calls


def test_a_pass_prices_demand_acts_publishes_and_names_its_next_moment() -> None:
    """100 requests a second at 0.1 replica-seconds are 10 replicas of demand; 12 planned are 2 to start."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 12}), first={"a": 10})
    pool.load.put("a", 0.0, offered_requests=100.0)
    pool.world.advance(2.0)

    state, next_at_s = reconcile(pool.ports, pool.policy, pool.config, pool.state, 2.0)

    assert (next_at_s, state.memory, state.read_until_s) == (4.0, 1, 2.0)
    seen = pool.last.given.observed[A]
    assert seen.demand_replicas.tolist() == [10.0, 10.0]
    assert (seen.active, seen.demand_known) == (10, True)
    assert [(a.kind, a.replica) for a in pool.last.actions if a.target == A] == [
        (ActionKind.START, "a-10"),
        (ActionKind.START, "a-11"),
    ]
    assert pool.names("a") == sorted(f"a-{n}" for n in range(12))
    assert pool.book.of_target(A) == PlanEntry("pool", 2.0, pool.last.plan, 2.0, {A: 2.0}, frozenset())
    assert pool.last.plan.targets[A].active == 12


def test_a_record_is_begun_before_anything_acts_and_completed_after() -> None:
    pool = quiet_pool((managed("a"),), Fixed({"a": 2}), first={"a": 1})
    calls = logged(pool)

    record = pool.step(2.0)

    assert calls == ["observe", "read", "begin", "observe", "apply", "complete", "publish"]
    assert pool.kept.begun[0].outcomes is None
    assert replace(record, outcomes=None) == pool.kept.begun[0]
    assert record.outcomes is not None
    assert record.outcomes.keys() == {a.name for a in record.actions}
    start = next(a for a in record.actions if a.kind is ActionKind.START)
    assert record.outcomes[start.name] == InFlight(start.deadline_s)


def test_a_pass_that_wants_nothing_asks_for_nothing_and_is_recorded_all_the_same() -> None:
    pool = quiet_pool((managed("a"),), Fixed({"a": 1}), first={"a": 1})
    calls = logged(pool)

    record = pool.step(2.0)

    assert calls == ["observe", "read", "begin", "complete", "publish"]
    assert (record.actions, record.outcomes) == ((), {})


def test_ten_seconds_of_silence_are_tolerated_then_the_target_is_unknown_and_held() -> None:
    """The last sample ends at 2 s. A policy that would scale to one replica is refused from 12 s on."""
    policy = Fixed({"a": 4})
    pool = quiet_pool((managed("a"),), policy, first={"a": 4})
    pool.load.put("a", 0.0, offered_requests=40.0)
    pool.load.silence("a", 2.0)

    known = {r.now_s: r.given.known(A) for r in pool.steps(14.0)}
    policy.active = {"a": 1}
    held = pool.step(16.0)

    assert known == {2.0: True, 4.0: True, 6.0: True, 8.0: True, 10.0: True, 12.0: False, 14.0: False}
    assert held.violations == (Violation("1 active replicas with demand unknown, 4 are there", A),)
    assert held.actions == ()
    entry = pool.book.of_target(A)
    assert entry is not None
    assert (set(entry.unknown), dict(entry.newest_sample_s)) == ({A}, {A: 2.0})


def test_samples_that_stop_coming_are_silence_too() -> None:
    """A source that has fallen behind answers with no samples at all rather than with missing ones."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 4}), first={"a": 4})
    pool.load.put("a", 0.0, offered_requests=40.0)
    pool.load.until_s = 4.0

    known = {r.now_s: r.given.known(A) for r in pool.steps(16.0)}

    assert known == {t: t < 14.0 for t in (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0)}
    assert pool.state.read_until_s == 4.0


def _replaced(of: str, **changes: Any) -> Callable[[Plan], Plan]:
    """Return the change of one target's part of a plan."""
    return lambda plan: replace(plan, targets={**plan.targets, key(of): replace(plan.targets[key(of)], **changes)})


def _without(of: str) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, targets={k: p for k, p in plan.targets.items() if k != key(of)})


BAD_PLANS: list[tuple[Callable[[Plan], Plan], str]] = [
    (_replaced("b", active=0), "0 active replicas with demand unknown, 3 are there"),
    (_replaced("b", active=21), "21 active replicas, allowed are 0 to 20"),
    (_replaced("b", active=-1), "-1 active replicas, allowed are 0 to 20"),
    (_replaced("b", warm={"parked": -2}), "-2 warm replicas, 0 is the least"),
    (_replaced("b", warm={"hot": 1}), "warm replicas in tier hot, which its ladder lacks"),
    (_replaced("b", reasons=()), "the plan gives no reason"),
    (_without("b"), "the plan has no entry for it"),
]


@pytest.mark.parametrize(("change", "text"), BAD_PLANS)
def test_a_target_whose_plan_breaks_its_contract_is_held_and_the_others_go_on(
    change: Callable[[Plan], Plan], text: str
) -> None:
    """The target beside it gets its two replicas, and the record tells the violation."""
    pool = quiet_pool(
        (managed("a"), managed("b", most=20)), Fixed({"a": 3, "b": 3}, change=change), first={"a": 1, "b": 3}
    )
    pool.load.silence("b", 0.0)

    record = pool.step(2.0)

    assert record.violations == (Violation(text, B),)
    held = record.plan.targets[B]
    assert (held.active, held.warm, held.reasons[-1].code) == (3, {}, ReasonCode.PLAN_REJECTED)
    assert {a.target for a in record.actions if a.target} == {A}
    assert (pool.names("a"), pool.names("b")) == (["a-0", "a-1", "a-2"], ["b-0", "b-1", "b-2"])
    entry = pool.book.of_target(B)
    assert entry is not None
    assert entry.plan == record.plan


def test_a_plan_over_the_gpu_budget_grows_only_while_it_fits() -> None:
    """16 GPUs: 2 of `a` wanted, and 100 of `b`; four are idle beside them, and no GPU is kept."""
    pool = quiet_pool((managed("a"), managed("b")), Fixed({"a": 2, "b": 100}, spare=4), first={"a": 1, "b": 3})

    record = pool.step(2.0)

    assert record.violations == (Violation("106.0 GPUs planned, the budget is 16"),)
    assert {k.name: p.active for k, p in record.plan.targets.items()} == {"a": 2, "b": 14}
    assert gpus_of(record.plan, record.given.targets) == 16.0
    assert (len(pool.names("a")), len(pool.names("b"))) == (2, 14)


def test_unknown_names_in_a_plan_are_violations_of_the_plan_alone() -> None:
    stranger = TargetPlan(5, {}, Fixed({"a": 1})._plan(A, 1).reasons)
    pool = quiet_pool(
        (managed("a"),),
        Fixed({"a": 2}, change=lambda p: replace(p, targets={**p.targets, key("x"): stranger})),
        first={"a": 1},
    )

    record = pool.step(2.0)

    assert record.violations == (Violation("default/x is no target of pool pool"),)
    assert (tuple(record.plan.targets), pool.names("a")) == ((A,), ["a-0", "a-1"])


WITH_TOKENS = WorkRate(per_request_s=0.1, per_prompt_token_s=0.001, per_output_token_s=0.01)


def test_queued_requests_of_unknown_length_are_priced_at_the_running_mean() -> None:
    """No engine exports the tokens of its queue: 50 requests of 50 prompt and 10 output tokens are 12.5 replica-s."""
    pool = quiet_pool((managed("a", work=WITH_TOKENS),), Fixed({"a": 1}), first={"a": 1})
    pool.load.put("a", 0.0, queued=50.0, queued_prompt_tokens=float("nan"))

    seen = pool.step(2.0).given.observed[A]

    assert seen.backlog_replica_s == pytest.approx(50 * (0.1 + 0.05 + 0.1))


def test_the_running_mean_is_that_of_the_requests_seen() -> None:
    """5,000 requests of 250 prompt tokens replace the first guess of 50; the queue is priced by what was seen."""
    pool = quiet_pool((managed("a", work=WITH_TOKENS),), Fixed({"a": 1}), first={"a": 1})
    pool.load.put("a", 0.0, offered_requests=5000.0, prompt_tokens=1_250_000.0, queued=50.0)
    pool.load.put("a", 0.0, queued_prompt_tokens=float("nan"))

    pool.step(2.0)

    prompt = float(pool.state.demand.prompt.mean[0])
    assert prompt == pytest.approx(250.0)
    expected = 50 * (0.1 + prompt * 0.001 + 10.0 * 0.01) / float(pool.state.demand.rating.share[0])
    assert pool.last.given.observed[A].backlog_replica_s == pytest.approx(expected)


def test_a_standing_queue_is_told_apart_from_a_burst() -> None:
    """20 queued requests are 2 replica-seconds at once; they stand only after ten seconds of samples."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 100}, interval_s=2.0), gpus=104, first={"a": 100})
    pool.load.put("a", 4.0, queued=20.0)
    pool.load.put("a", 20.0, queued=0.0)
    pool.load.put("a", 21.0, queued=20.0)

    seen = {r.now_s: r.given.observed[A] for r in pool.steps(24.0)}

    assert {t: s.backlog_replica_s for t, s in seen.items()} == {
        t: pytest.approx(2.0 if t > 4.0 else 0.0) for t in seen
    }
    standing = {t for t, s in seen.items() if s.standing_backlog_replica_s > 0}
    assert standing == {14.0, 16.0, 18.0, 20.0}


@dataclass
class Failing:
    """A port that fails once, before it does what it is asked for."""

    to: Any
    name: str
    error: PortError
    after: int = 0

    def __getattr__(self, name: str) -> Any:
        if name != self.name:
            return getattr(self.to, name)
        self.after -= 1
        if self.after == -1:
            raise self.error
        return getattr(self.to, name)


PORT_ERRORS = [
    ("metrics", "read", 0, PortError("no metrics")),
    ("cluster", "observe", 0, NotSyncedError("listing")),
    ("cluster", "observe", 1, PortError("no answer to the second look")),
    ("recorder", "begin", 0, PortError("the disk is full")),
]


@pytest.mark.parametrize(("port", "call", "after", "error"), PORT_ERRORS)
def test_a_port_that_cannot_answer_leaves_state_and_world_unchanged_and_the_pass_can_be_run_again(
    port: str, call: str, after: int, error: PortError
) -> None:
    """Run again at the same moment, the pass ends as one that met no error."""
    pools = [quiet_pool((managed("a"),), Fixed({"a": 3}, spare=1), first={"a": 1}) for _ in range(2)]
    for pool in pools:
        pool.load.put("a", 0.0, offered_requests=20.0)
        pool.steps(4.0)
    pool, unharmed = pools
    pool.policy = unharmed.policy = Fixed({"a": 5}, spare=1)
    sound, before = pool.ports, pool.world.observe(4.0)
    pool.ports = replace(sound, **{port: Failing(getattr(sound, port), call, error, after)})
    pool.world.advance(6.0)
    ahead = pool.world.observe(6.0)

    with pytest.raises(type(error), match=str(error)):
        reconcile(pool.ports, pool.policy, pool.config, pool.state, 6.0)
    assert pool.world.observe(6.0) is ahead
    assert pool.book.of_target(A) == unharmed.book.of_target(A)
    pool.state, _ = reconcile(pool.ports, pool.policy, pool.config, pool.state, 6.0)

    unharmed.step(6.0)
    assert before.replicas != pool.world.observe(6.0).replicas == unharmed.world.observe(6.0).replicas
    assert (pool.state.memory, pool.state.flight) == (unharmed.state.memory, unharmed.state.flight)
    assert pool.last.outcomes == unharmed.last.outcomes
