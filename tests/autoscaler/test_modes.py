"""Modes: what of a plan is carried out. The plan itself is the same in each, and always published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoscaler.acting.modes import Mode
from autoscaler.ports import PassRecord
from autoscaler.reconcile import decided_again
from autoscaler.records import from_json, to_json
from policies.actions import SCALING, ActionKind
from policies.types import Phase
from tests.autoscaler.odd_clusters import Answering
from tests.autoscaler.quiet_pools import Fixed, Pool, key, managed, quiet_pool

A, B = key("a"), key("b")


def pool_in(*modes: Mode, first: dict[str, int] | None = None, **policy: Any) -> Pool:
    """Targets a, b, ... in these modes, whose cluster keeps what it was asked for."""
    targets = tuple(managed(name, mode=mode) for name, mode in zip("ab", modes, strict=False))
    return quiet_pool(targets, Fixed(**policy), first=first, seen_as=Answering)


def asked(pool: Pool) -> list[str]:
    cluster = pool.ports.cluster
    assert isinstance(cluster, Answering)
    return [action.name for _, action in cluster.asked]


def unstaged(pool: Pool, node: str) -> None:
    """Let the snapshots of `a` and `b` not lie on `node`."""
    for target in pool.config.targets:
        assert target.spec.snapshot is not None
        pool.world.snapshots.evict(target.spec.snapshot, pool.world.nodes[node])


def test_advise_applies_nothing_and_publishes_the_plan() -> None:
    """Replicas, GPUs, parked replicas and snapshots are wanted; the world stays as it was, the book has the plan."""
    snapshot = managed("a").spec.snapshot
    assert snapshot is not None
    policy = {"active": {"a": 5}, "spare": 3, "parked": {"a": 1}, "placement": {"node-000": (snapshot,)}}
    pool = pool_in(Mode.ADVISE, first={"a": 2}, **policy)
    unstaged(pool, "node-000")
    before = pool.world.observe(0.0)

    records = pool.steps(10.0)

    wanted = {a.kind for r in records for a in r.actions}
    assert wanted >= {ActionKind.START, ActionKind.SET_LENT, ActionKind.STAGE}
    assert asked(pool) == []
    after = pool.world.observe(10.0)
    assert (after.replicas, set(after.nodes)) == (before.replicas, set(before.nodes))
    entry = pool.book.of_target(A)
    assert entry is not None
    assert (entry.decided_at_s, entry.plan) == (10.0, records[-1].plan)
    assert entry.plan.targets[A].active == 5


def test_keda_leaves_the_count_to_the_hpa_and_keeps_warm_replicas_gpus_and_snapshots() -> None:
    """Two replicas too many are left to the HPA; two are parked, three GPUs kept free and the snapshot fetched."""
    snapshot = managed("a").spec.snapshot
    assert snapshot is not None
    policy = {"active": {"a": 2}, "spare": 5, "parked": {"a": 2}, "placement": {"node-000": (snapshot,)}}
    pool = pool_in(Mode.KEDA, first={"a": 2}, **policy)
    unstaged(pool, "node-000")
    pool.steps(20.0)
    assert len(pool.names("a", Phase.PARKED)) == 2
    assert snapshot in pool.world.nodes["node-000"].snapshots

    assert isinstance(pool.policy, Fixed)
    pool.policy.active, pool.policy.spare = {"a": 0}, 3
    pool.steps(60.0)

    assert pool.names("a", Phase.ACTIVE) == ["a-0", "a-1"]
    assert sum(n.free_gpus for n in pool.world.observe(60.0).nodes) == 3
    assert {name.partition("/")[0] for name in asked(pool)} == {"start", "set-lent", "stage"}


def test_keda_releases_parked_replicas_that_are_too_many() -> None:
    """They are no part of the HPA's count: what Forethaw parked it gives up again."""
    pool = pool_in(Mode.KEDA, first={"a": 1}, active={"a": 1}, spare=4, parked={"a": 2})
    pool.steps(20.0)
    assert len(pool.names("a", Phase.PARKED)) == 2

    assert isinstance(pool.policy, Fixed)
    pool.policy.parked = {}
    pool.step(22.0)

    assert pool.names("a", Phase.PARKED) == []
    assert pool.names("a", Phase.ACTIVE) == ["a-0"]


def test_keda_gives_up_a_start_that_hangs_on_its_way_to_be_parked() -> None:
    pool = pool_in(Mode.KEDA, active={"a": 0}, spare=2, parked={"a": 1})
    sound = pool.world.specs[A]
    slow = tuple(replace(t, lead_time=replace(t.lead_time, quantiles_s=(1e6,))) for t in sound.ladder)
    pool.world.specs[A] = replace(sound, ladder=slow)
    pool.steps(20.0)
    pool.world.specs[A] = sound

    pool.steps(220.0)

    assert pool.names("a", Phase.PARKED) == ["a-1"]
    assert asked(pool).count("stop/default/a-0") == 1


@pytest.mark.parametrize("other", [Mode.SCALE, Mode.KEDA, Mode.ADVISE])
def test_scale_carries_out_everything_whatever_the_target_beside_it_allows(other: Mode) -> None:
    """Growth, shrinking, parked replicas and GPUs: `a` comes to its plan."""
    policy = {"active": {"a": 4, "b": 1}, "spare": 2, "parked": {"a": 1}}
    pool = pool_in(Mode.SCALE, other, first={"a": 1, "b": 1}, **policy)
    pool.steps(20.0)

    assert (len(pool.names("a", Phase.ACTIVE)), len(pool.names("a", Phase.PARKED))) == (4, 1)
    assert isinstance(pool.policy, Fixed)
    pool.policy.active = {"a": 2, "b": 1}
    pool.steps(40.0)
    assert (len(pool.names("a", Phase.ACTIVE)), len(pool.names("a", Phase.PARKED))) == (2, 1)
    assert sum(n.free_gpus for n in pool.world.observe(40.0).nodes) == 2


def scaled(record: PassRecord) -> set[Any]:
    """The targets whose scaling was asked for and answered."""
    outcomes = record.outcomes or {}
    return {a.target for a in record.actions if a.kind in SCALING and a.name in outcomes}


def test_in_one_pool_each_target_has_its_own_mode() -> None:
    """`a` is scaled, `b` is only advised: both are planned, one grows, and the pool's GPUs are managed."""
    pool = pool_in(Mode.SCALE, Mode.ADVISE, first={"a": 1, "b": 1}, active={"a": 3, "b": 3}, spare=2)

    record = pool.step(2.0)

    assert {a.target for a in record.actions if a.kind in SCALING} == {A, B}
    assert scaled(record) == {A}
    assert (len(pool.names("a")), pool.names("b")) == (3, ["b-0"])
    assert "set-lent/node-000" in asked(pool)
    assert {k: p.active for k, p in pool.last.plan.targets.items()} == {A: 3, B: 3}


def test_gpus_of_a_pool_are_left_alone_while_no_target_may_act() -> None:
    pool = pool_in(Mode.ADVISE, Mode.ADVISE, active={"a": 0, "b": 0}, spare=4)

    assert [a.kind for a in pool.step(2.0).actions] == [ActionKind.SET_LENT]
    assert asked(pool) == []


def test_a_snapshot_whose_target_has_left_is_evicted_while_any_target_may_act() -> None:
    """`b` leaves the pool; its snapshot is placed nowhere."""
    snapshot = managed("a").spec.snapshot
    assert snapshot is not None
    pool = pool_in(Mode.SCALE, Mode.SCALE, active={"a": 1}, placement={"node-000": (snapshot,)})
    pool.config = replace(pool.config, targets=pool.config.targets[:1])

    pool.step(2.0)

    assert "evict/default/default/b@sha256:1/node-000" in asked(pool)
    assert pool.world.nodes["node-000"].snapshots == {snapshot}


@pytest.mark.parametrize("other", [Mode.ADVISE, Mode.KEDA])
def test_a_start_that_is_left_to_others_takes_no_gpu_from_one_that_happens(other: Mode) -> None:
    """Four GPUs are free and both want them, `a` first by name; nobody here starts `a`, so `b` waits for nothing."""
    pool = pool_in(other, Mode.SCALE, active={"a": 0, "b": 0}, spare=4)
    pool.steps(20.0)
    assert isinstance(pool.policy, Fixed)
    pool.policy.active, pool.policy.spare = {"a": 4, "b": 4}, 0

    record = pool.step(22.0)

    assert [a.waits_for for a in record.actions if a.kind is ActionKind.START and a.target == B] == [""] * 4
    assert record.plan.targets[A].active == 4


def test_what_an_advised_target_would_do_is_recorded_beside_what_is_done() -> None:
    pool = pool_in(Mode.ADVISE, Mode.SCALE, active={"a": 2, "b": 3})

    record = pool.step(2.0)

    wanted = [a.replica for a in record.actions if a.kind is ActionKind.START]
    assert sorted(wanted) == ["a-0", "a-1", "b-0", "b-1", "b-2"]
    assert {a.target for a in record.actions if a.name in (record.outcomes or {})} == {B, None}
    again = decided_again(pool.policy, from_json(to_json(record)))
    assert to_json(replace(again, outcomes=record.outcomes)) == to_json(record)


def test_a_start_that_hangs_in_keda_is_not_assigned_a_successor() -> None:
    """It was begun before KEDA took over: its successor is the HPA's to start, and takes no GPU here."""
    pool = pool_in(Mode.SCALE, active={"a": 1}, spare=2)
    sound = pool.world.specs[A]
    slow = tuple(replace(t, lead_time=replace(t.lead_time, quantiles_s=(1e6,))) for t in sound.ladder)
    pool.world.specs[A] = replace(sound, ladder=slow)
    pool.steps(20.0)
    pool.world.specs[A] = sound
    pool.config = replace(pool.config, targets=(replace(pool.config.targets[0], mode=Mode.KEDA),))

    records = pool.steps(220.0)

    assert records[-1].given.observed[A].current == 0
    assert pool.names("a", Phase.STARTING) == ["a-0"]
    assert [a.replica for a in records[-1].actions if a.kind is ActionKind.START] == []
