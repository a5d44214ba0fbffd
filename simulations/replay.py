"""Replay one row of the table: production reconcile, simulated world, one clock.

The loop is the whole of the simulator's own control flow: ask reconcile at the moment it named, let
the world advance to the next. Everything that decides lives in `autoscaler` and `policies`;
everything that happens lives in `simulations/world` and `simulations/engine`.
"""

from __future__ import annotations

from collections.abc import Callable

from autoscaler.reconcile import ManagedTarget, Ports, ReconcileConfig, initial_state, reconcile
from policies.types import Policy, SupplyStep, TargetSpec
from simulations.engine import Fleet
from simulations.results import RunResult
from simulations.scenario.rows import Row
from simulations.scenario.scenario import Scenario, TargetScenario
from simulations.score import score_run
from simulations.world.cluster import SimulatedCluster, WorldConfig
from simulations.world.ledger import Ledger
from simulations.world.metrics import SimulatedMetrics
from simulations.world.recorder import SeriesRecorder
from simulations.world.serving import Serving

Progress = Callable[[float], None]
"""Told the share of the replay that is done, 0 to 1."""


def replay(scenario: Scenario, row: Row, jobs: int = 1, progress: Progress | None = None) -> RunResult:
    """Run `row` over the scenario and score what happened after the warm-up."""
    targets = scenario.targets
    specs = tuple(t.spec(row.restored) for t in targets)
    serving = tuple(_serving(scenario, t) for t in targets)
    ledger = Ledger(len(targets), scenario.pool_gpus, scenario.duration_s, scenario.bucket_s, scenario.warmup_s)
    cluster = SimulatedCluster(_world(scenario, specs), serving, ledger, jobs)
    recorder = SeriesRecorder(len(targets), scenario.duration_s, scenario.bucket_s, scenario.forecast_horizon_s)
    ports = Ports(SimulatedMetrics(serving, scenario.sample_period_s), cluster, row.make_forecaster(), recorder)
    if row.restored:
        cluster.snapshots.stage_everywhere(specs)
    for i, target in enumerate(targets):
        cluster.preload(i, target.initial_replicas)
    config = ReconcileConfig(
        targets=tuple(
            ManagedTarget(spec, t.work, t.mean_output_tokens) for spec, t in zip(specs, targets, strict=True)
        ),
        supply=scenario.supply,
        horizon_s=_horizon_s(specs, scenario.supply[-1], row.policy),
    )
    try:
        _run(scenario, row.policy, config, ports, cluster, progress)
    finally:
        cluster.close()
    return score_run(scenario, row.name, row.policy.name, row.restored, row.bound, cluster, recorder)


def _run(
    scenario: Scenario,
    policy: Policy,
    config: ReconcileConfig,
    ports: Ports,
    cluster: SimulatedCluster,
    progress: Progress | None,
) -> None:
    state = initial_state(policy, config, ports.forecaster)
    # The first decision stands on a first sample.
    next_at_s = scenario.sample_period_s
    told = 0.0
    while next_at_s < scenario.duration_s:
        cluster.advance(next_at_s)
        state, next_at_s = reconcile(ports, policy, config, state, next_at_s)
        if progress is not None and next_at_s / scenario.duration_s - told > 0.01:
            told = next_at_s / scenario.duration_s
            progress(min(told, 1.0))
    cluster.advance(scenario.duration_s)
    for serving in cluster.serving:
        serving.fleet.finish()
    if progress is not None:
        progress(1.0)


def _serving(scenario: Scenario, target: TargetScenario) -> Serving:
    slots = max(scenario.pool_gpus // target.service.gpus_per_replica, 1)
    fleet = Fleet(
        target.service,
        slots,
        scenario.slo_wait_s,
        scenario.duration_s,
        scenario.bucket_s,
        scenario.sample_period_s,
    )
    return Serving(fleet, target.open_stream(), slots)


def _world(scenario: Scenario, specs: tuple[TargetSpec, ...]) -> WorldConfig:
    return WorldConfig(
        targets=specs,
        supply=scenario.supply[1] if len(scenario.supply) > 1 else scenario.supply[0],
        pool_gpus=scenario.pool_gpus,
        gpus_per_node=scenario.gpus_per_node,
        cache_bytes=scenario.cache_bytes,
        whole_nodes=scenario.whole_nodes,
        fetch_bytes_per_s=scenario.fetch_bytes_per_s,
        seed=scenario.seed,
    )


def _horizon_s(specs: tuple[TargetSpec, ...], supply: SupplyStep, policy: Policy) -> float:
    """As far as a decision of now can matter: the slowest GPU and a wake on it, or the policy's own interval."""
    wake_s = max(min(t.lead_time.at(0.95) for t in spec.ladder[1:]) for spec in specs)
    return max(supply.lead_time.at(0.98) + wake_s + policy.interval_s, policy.interval_s * 2)
