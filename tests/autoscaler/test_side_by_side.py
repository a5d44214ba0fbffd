"""Targets and pools side by side: what joins, leaves or stands beside a target changes nothing of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from autoscaler.config import ManagedTarget
from autoscaler.forecast import SamplePathForecaster
from autoscaler.ports import PassRecord
from policies.decide import ForethawPolicy
from policies.keys import TargetKey
from policies.types import Phase, PoolSpec
from simulations.world.nodes import Node
from tests.autoscaler.quiet_pools import SUPPLY, Fixed, Pool, key, managed, of_model, quiet_cluster, quiet_pool

A, B = key("a"), key("b")


def bursty(name: str, seed: int, seconds: int = 121) -> list[tuple[str, float, float]]:
    rates = np.random.default_rng(seed).poisson(60.0, seconds)
    return [(name, float(s), float(rate)) for s, rate in enumerate(rates)]


def predicted(*names: str) -> Pool:
    """Our own policy and forecast over a pool with room for all."""
    forecaster = SamplePathForecaster(seed=3, n_paths=40)
    targets = tuple(managed(name) for name in ("a", "b", "c"))
    world = quiet_cluster(tuple(t.spec for t in targets), 128)
    there = tuple(t for t in targets if t.spec.key.name in names)
    pool = quiet_pool(there, ForethawPolicy(), world=world, forecaster=forecaster, first={"a": 6, "b": 6})
    for name, seed in (("a", 1), ("b", 2), ("c", 9)):
        for of, from_s, rate in bursty(name, seed):
            pool.load.put(of, from_s, offered_requests=rate)
    return pool


def told_of(record: PassRecord, state_of: Pool, of: TargetKey) -> tuple[Any, ...]:
    """All that a pass knows of one target, as bytes where it is an array."""
    demand, paths, seen = state_of.state.demand, record.given.paths, record.given.observed[of]
    assert paths is not None
    i = demand.row(of)
    columns = (demand.demand, demand.concurrency, demand.backlog, demand.rating.share, demand.prompt.mean)
    return (
        *(column[i].tobytes() for column in columns),
        paths.rows((of,)).paths.tobytes(),
        seen.demand_replicas.tobytes(),
        seen.current,
        record.plan.targets[of],
    )


def test_a_target_that_joins_and_leaves_changes_nothing_of_the_others() -> None:
    """`c` is first in the configuration from 40 s to 80 s: windows, ratings, forecasts and plans of the others stay."""
    alone, joined = predicted("a", "b"), predicted("a", "b")
    newcomer = managed("c")
    with_it, without_it = (newcomer, *joined.config.targets), joined.config.targets
    planned = []
    while (now_s := joined.due_s) <= 120.0:
        joined.config = replace(joined.config, targets=with_it if 40.0 <= now_s < 80.0 else without_it)
        ours, theirs = joined.step(now_s), alone.step(now_s)
        planned.append(key("c") in ours.plan.targets)
        for of in (A, B):
            assert told_of(ours, joined, of) == told_of(theirs, alone, of), (now_s, of)

    assert (planned.count(True), planned.index(True)) == (20, 19)
    assert len({p.plan.targets[A].active for p in alone.kept.records}) > 1


def test_a_target_that_leaves_takes_its_memory_with_it() -> None:
    """What was learnt of `b` is gone when it comes back: it begins from its first guesses, its demand unknown."""
    pool = predicted("a", "b")
    both = pool.config.targets
    pool.load.put("b", 121.0)
    pool.steps(60.0)
    pool.config = replace(pool.config, targets=both[:1])
    pool.step(62.0)

    assert pool.state.demand.keys == (A,)
    assert B not in pool.ports.forecaster.paths(pool.state.forecast, (A, B), 62.0, 8.0).known
    assert pool.book.of_target(B) is None
    assert pool.names("b"), "its replicas are left alone"

    pool.config = replace(pool.config, targets=both)
    back = pool.step(64.0).given.observed[B]
    assert (np.isfinite(back.demand_replicas).sum(), back.current) == (2, len(pool.names("b")))


def test_nodes_of_another_gpu_model_are_not_used() -> None:
    """Eight of the cluster's sixteen GPUs are of the pool's model: of twelve replicas wanted eight start, all there."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 12}))
    of_model(pool.world, "h200", "node-000")

    record = pool.step(2.0)

    assert [n.name for n in record.given.nodes] == ["node-001"]
    assert record.given.gpu_budget == 8
    assert {r.node.name for r in pool.world.replicas[A].values()} == {"node-001"}
    assert len(pool.names("a")) == 8
    assert pool.world.nodes["node-000"].observation().lent_gpus == 8


def _shared(names: tuple[str, ...]) -> tuple[ManagedTarget, ...]:
    return tuple(managed(name) for name in names)


def test_two_pools_on_one_cluster_leave_each_others_nodes_alone() -> None:
    """Both keep GPUs free, scale and want more than they have; each touches nodes of its own model alone."""
    targets = _shared(("a", "b"))
    world = quiet_cluster(tuple(t.spec for t in targets), 32)
    of_model(world, "h200", "node-002", "node-003")
    first = quiet_pool(targets[:1], Fixed({"a": 6}, spare=4), world=world)
    second = quiet_pool(targets[1:], Fixed({"b": 30}, spare=2), world=world, pool=PoolSpec("second", "h200", SUPPLY))
    for now_s in (2.0, 4.0, 6.0, 8.0, 10.0, 12.0):
        for pool, own in ((first, {"node-000", "node-001"}), (second, {"node-002", "node-003"})):
            record = pool.step(now_s)
            assert {a.node for a in record.actions if a.node} <= own
            assert record.given.gpu_budget == 16

    assert (len(first.names("a", Phase.ACTIVE)), len(second.names("b", Phase.ACTIVE))) == (6, 16)
    spare = [sum(_free(world.nodes[n]) for n in own) for own in (("node-000", "node-001"), ("node-002", "node-003"))]
    assert spare == [4, 0]
    assert first.book.of_target(B) is None


def _free(node: Node) -> int:
    return node.observation().free_gpus
