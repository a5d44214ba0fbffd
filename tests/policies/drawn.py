"""Drawn worlds and plans: pools in any state that a cluster can be in, and plans good and bad.

A world holds replicas in every phase, nodes fragmented between them, parked replicas on top, targets of several GPUs
and SLOs, stale metrics, forecasts that lack targets, and budgets below the minimums. Each GPU of a node is in exactly
one place: with a replica, free, lent or on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from autoscaler.observation import counted
from policies.actions import ON_THE_WAY
from policies.keys import SnapshotKey, TargetKey
from policies.leadtime import LeadTime
from policies.paths import DemandPaths
from policies.reasons import for_count
from policies.types import (
    ACTIVE,
    COLD,
    FREE,
    PARKED,
    STAGED,
    DecisionInput,
    NodeObservation,
    Phase,
    Plan,
    PoolSpec,
    ReplicaView,
    SupplyStep,
    TargetObservation,
    TargetPlan,
    TargetSpec,
    TierSpec,
)
from tests.policies.worlds import BUYS, LENDS, LENDS_AND_BUYS, STEP_ENDS_S, target

NOW_S = 1000.0
HOLDING = (Phase.PENDING, Phase.STARTING, Phase.ACTIVE, Phase.DRAINING)
"""Phases in which a replica holds GPUs or has them spoken for."""
Replicas = Mapping[TargetKey, tuple[ReplicaView, ...]]
Running = Mapping[TargetKey, Mapping[str, float]]


@dataclass(frozen=True)
class World:
    """What a pass sees: the decision's input, and replicas and their load by name."""

    given: DecisionInput
    replicas: Replicas
    running: Running

    def spec(self, key: TargetKey) -> TargetSpec:
        """Return the target `key`."""
        return next(t for t in self.given.targets if t.key == key)


def specs(draw: st.DrawFn) -> tuple[TargetSpec, ...]:
    """One to three targets of different sizes, SLOs and bounds; one may have no snapshot yet."""
    made = []
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        least = draw(st.integers(0, 4))
        spec = target(
            name,
            gpus=draw(st.sampled_from([1, 2, 4])),
            least=least,
            most=least + draw(st.integers(0, 12)),
            miss_cost=draw(st.sampled_from([0.1, 1.0, 10.0])),
            slo_wait_s=draw(st.sampled_from([0.5, 2.0, 10.0])),
        )
        spec = replace(spec, ladder=tuple(_spread(tier) for tier in spec.ladder))
        made.append(replace(spec, snapshot=None) if draw(st.booleans()) and name == "c" else spec)
    return tuple(made)


def _spread(tier: TierSpec) -> TierSpec:
    """Give a tier a lead time that varies and, with a snapshot, fails at times: draws then depend on their salt."""
    base_s = tier.lead_time.mean_s
    quantiles_s = (0.5 * base_s, base_s, 4.0 * base_s)
    fails = LeadTime(quantiles_s, 0.2, (30.0, 60.0)) if tier.needs_snapshot else LeadTime(quantiles_s)
    return replace(tier, lead_time=fails)


@dataclass
class _Names:
    used: int = 0

    def next(self, key: TargetKey) -> str:
        self.used += 1
        return f"{key.name}-{self.used - 1}"


def _replica(draw: st.DrawFn, spec: TargetSpec, node: str, names: _Names) -> ReplicaView:
    phase = draw(st.sampled_from(HOLDING))
    goals = {Phase.ACTIVE: [ACTIVE], Phase.DRAINING: ["", PARKED]}.get(phase, [ACTIVE, ACTIVE, PARKED])
    waits_for = draw(st.sampled_from([ON_THE_WAY, "lent", ""])) if phase is Phase.PENDING else ""
    since_s = draw(st.sampled_from([NOW_S - 5000.0, NOW_S - 9.0, NOW_S - 2.0]))
    origin = draw(st.sampled_from([STAGED, COLD]))
    return ReplicaView(
        names.next(spec.key), spec.key, phase, node, since_s, origin, draw(st.sampled_from(goals)), waits_for
    )


def _node(draw: st.DrawFn, name: str, targets: tuple[TargetSpec, ...], lends: bool) -> NodeObservation:
    gpus = draw(st.sampled_from([1, 2, 4, 8]))
    cached = draw(st.sets(st.sampled_from(targets)))
    fetching = draw(st.sets(st.sampled_from(targets))) - cached
    return NodeObservation(
        name,
        gpus,
        gpus,
        0,
        0,
        frozenset(t.snapshot for t in cached if t.snapshot),
        frozenset(t.snapshot for t in fetching if t.snapshot),
        cache_free_bytes=draw(st.sampled_from([0, 10, 1000])),
    )


def _filled(
    draw: st.DrawFn, node: NodeObservation, targets: tuple[TargetSpec, ...], lends: bool, names: _Names
) -> tuple[NodeObservation, list[ReplicaView]]:
    """Put replicas on a node, and split what they leave into free, lent and on its way."""
    left, members = node.gpus, []
    for spec in draw(st.lists(st.sampled_from(targets), max_size=5)):
        if draw(st.integers(0, 3)) == 0:
            origin = COLD if spec.snapshot is None else STAGED
            members.append(ReplicaView(names.next(spec.key), spec.key, Phase.PARKED, node.name, NOW_S - 9.0, origin))
        elif spec.gpus_per_replica <= left:
            left -= spec.gpus_per_replica
            members.append(_replica(draw, spec, node.name, names))
    free = draw(st.integers(0, left))
    lent = draw(st.integers(0, left - free)) if lends else 0
    return replace(node, free_gpus=free, lent_gpus=lent, reclaiming_gpus=left - free - lent), members


def _observed(
    draw: st.DrawFn, spec: TargetSpec, members: tuple[ReplicaView, ...], supply: tuple[SupplyStep, ...]
) -> TargetObservation:
    ready, starting, draining = counted(members, spec, supply, NOW_S)
    known = draw(st.sampled_from([True, True, False]))
    level = draw(st.floats(0.0, 20.0))
    series = np.full(60, level)
    if not known:
        series[-20:] = np.nan
    backlog = draw(st.sampled_from([0.0, 0.0, 30.0]))
    return TargetObservation(ready, starting, draining, series, series * 100.0, known, backlog, backlog / 2.0)


def _paths(draw: st.DrawFn, targets: tuple[TargetSpec, ...], levels: list[float]) -> DemandPaths | None:
    """Noisy paths in an order of their own, for some of the targets or none at all."""
    if draw(st.integers(0, 5)) == 0:
        return None
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    keys = tuple(t.key for t in draw(st.permutations(targets)))
    trend = random.uniform(0.5, 2.0, (len(keys), 1, len(STEP_ENDS_S)))
    noise = random.gamma(4.0, 0.25, (len(keys), 20, len(STEP_ENDS_S)))
    forgotten = draw(st.sets(st.sampled_from(keys), max_size=1)) if draw(st.booleans()) else set()
    return DemandPaths(keys, STEP_ENDS_S, np.array(levels)[:, None, None] * trend * noise, frozenset(keys) - forgotten)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a pool with its targets, replicas and nodes."""
    targets = specs(draw)
    supply = draw(st.sampled_from([LENDS, BUYS, LENDS_AND_BUYS]))
    lends, buys = any(not s.whole_nodes for s in supply[1:]), any(s.whole_nodes for s in supply)
    names, nodes = _Names(), []
    replicas: dict[TargetKey, tuple[ReplicaView, ...]] = {t.key: () for t in targets}
    for i in range(draw(st.integers(1, 4))):
        node = _node(draw, f"node-{i}", targets, lends)
        if buys and draw(st.integers(0, 2)) == 0:
            gone = replace(node, free_gpus=0, absent=True, snapshots=frozenset(), fetching=frozenset())
            nodes.append(gone)
            continue
        node, members = _filled(draw, node, targets, lends, names)
        nodes.append(node)
        for replica in members:
            replicas[replica.target] += (replica,)
    running = {
        key: {
            r.name: draw(st.sampled_from([0.0, 3.0, 9.0]))
            for r in members
            if r.phase is Phase.ACTIVE and draw(st.booleans())
        }
        for key, members in replicas.items()
    }
    observed = {t.key: _observed(draw, t, replicas[t.key], supply) for t in targets}
    levels = [draw(st.floats(0.0, 12.0)) for _ in targets]
    given = DecisionInput(
        now_s=NOW_S,
        sample_period_s=1.0,
        tick_s=2.0,
        pool=PoolSpec("pool", "", supply),
        gpu_budget=draw(st.integers(0, 40)),
        targets=targets,
        observed=observed,
        nodes=tuple(nodes),
        paths=_paths(draw, targets, levels),
    )
    return World(given, replicas, running)


def _placement(draw: st.DrawFn, world: World) -> dict[str, tuple[SnapshotKey, ...]]:
    snapshots = [t.snapshot for t in world.given.targets if t.snapshot is not None]
    names = [n.name for n in world.given.nodes]
    if not snapshots:
        return {}
    lists = st.lists(st.sampled_from(snapshots), unique=True).map(tuple)
    return draw(st.dictionaries(st.sampled_from(names), lists))


@st.composite
def plans(draw: st.DrawFn, world: World) -> Plan:
    """Draw a plan whose names and signs are right, whatever its counts."""
    targets = {}
    for spec in world.given.targets:
        active = draw(st.integers(0, spec.max_replicas))
        warm = {PARKED: n} if (n := draw(st.integers(0, 3))) else {}
        targets[spec.key] = TargetPlan(active, warm, (for_count(world.given.observed[spec.key].current, active),))
    supply = {FREE: draw(st.integers(0, 8))}
    if len(world.given.pool.supply) > 2:
        supply["lent"] = draw(st.integers(0, 8))
    return Plan(targets, supply, _placement(draw, world))


@st.composite
def worlds_and_plans(draw: st.DrawFn) -> tuple[World, Plan]:
    """Draw a world and a plan for it."""
    world = draw(worlds())
    return world, draw(plans(world))
