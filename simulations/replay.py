"""Replay one row of the table: production reconcile, simulated world, one clock.

There is no control flow of the simulator's own: the autoscaler's runner asks for passes, and its clock lets the
world advance instead of waiting. Everything that decides lives in `autoscaler` and `policies`;
everything that happens lives in `simulations/world` and `simulations/engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoscaler.config import ManagedTarget, ReconcileConfig
from autoscaler.planbook import PlanBook
from autoscaler.ports import PassRecord
from autoscaler.reconcile import Ports, initial_state
from autoscaler.runner import Runner
from policies.assignment import assign
from policies.keys import TargetKey
from policies.reasons import ReasonCode, because, for_count
from policies.types import DecisionInput, Plan, Policy, PoolSpec, SupplyStep, TargetPlan, TargetSpec
from simulations.engine import Fleet
from simulations.results import RunResult
from simulations.scenario.rows import Row
from simulations.scenario.scenario import Scenario, TargetScenario
from simulations.score import score_run
from simulations.world.clock import Progress, SimulatedClock
from simulations.world.cluster import SimulatedCluster, WorldConfig
from simulations.world.ledger import Ledger
from simulations.world.metrics import SimulatedMetrics
from simulations.world.recorder import SeriesRecorder
from simulations.world.serving import Serving


def replay(
    scenario: Scenario,
    row: Row,
    jobs: int = 1,
    progress: Progress | None = None,
    keep: Callable[[PassRecord], None] | None = None,
) -> RunResult:
    """Run `row` over the scenario and score what happened after the warm-up; `keep` is given each pass's record."""
    run = Run(scenario, row, jobs, keep)
    try:
        run.to_end(progress)
    finally:
        run.cluster.close()
    return run.result()


class Run:
    """One row's world, ports and configuration, ready to be stepped."""

    def __init__(
        self, scenario: Scenario, row: Row, jobs: int = 1, keep: Callable[[PassRecord], None] | None = None
    ) -> None:
        self.scenario, self.row = scenario, row
        specs = tuple(t.spec(restored=row.restored) for t in scenario.targets)
        keys = [spec.key for spec in specs]
        serving = {spec.key: _serving(scenario, t) for spec, t in zip(specs, scenario.targets, strict=True)}
        world = _world(scenario, specs)
        ledger = Ledger(
            keys,
            scenario.pool_gpus,
            scenario.duration_s,
            scenario.bucket_s,
            scenario.warmup_s,
            begin="absent" if world.buys else "lent",
        )
        self.cluster = SimulatedCluster(world, serving, ledger, jobs)
        self.recorder = SeriesRecorder(keys, scenario.duration_s, scenario.bucket_s, scenario.forecast_horizon_s, keep)
        metrics = SimulatedMetrics(serving, scenario.sample_period_s)
        self.ports: Ports[Any] = Ports(metrics, self.cluster, row.make_forecaster(), self.recorder, PlanBook())
        self.config = _config(scenario, specs, row.policy)
        self.cluster.snapshots.stage_everywhere(specs)
        first = {spec.key: t.initial_replicas for spec, t in zip(specs, scenario.targets, strict=True)}
        self.cluster.settle(first_replicas(self.cluster, self.config, first))

    def to_end(self, progress: Progress | None = None) -> None:
        """Replay the whole scenario."""
        pool, until_s = self.config.pool.name, self.scenario.duration_s
        clock = SimulatedClock(self.cluster, until_s, progress)
        runner = Runner(self.ports, self.row.policy, {pool: lambda: self.config}, clock)
        # The first decision stands on a first sample.
        first_s = self.scenario.sample_period_s
        runner.add(pool, initial_state(self.ports, self.row.policy, self.config, 0.0), first_s)
        runner.run(until_s)
        self.cluster.advance(until_s)
        for serving in self.cluster.serving.values():
            serving.fleet.finish()
        if progress is not None:
            progress(1.0)

    def result(self) -> RunResult:
        """Score what happened."""
        return score_run(self.scenario, self.row, self.cluster, self.recorder)


def first_replicas(cluster: SimulatedCluster, config: ReconcileConfig, counts: Mapping[TargetKey, int]) -> Any:
    """Return the actions that put `counts` replicas on nodes, packed as every later start is."""
    view = cluster.observe(0.0)
    why = (for_count(0, 0), because(ReasonCode.FIXED_COUNT, wanted=0))
    plan = Plan({key: TargetPlan(n, {}, why) for key, n in counts.items()})
    specs = tuple(t.spec for t in config.targets)
    given = DecisionInput(0.0, 1.0, 1.0, config.pool, view.gpu_budget, specs, {}, view.nodes, None)
    return assign(plan, given, view.replicas, view.running)


def _config(scenario: Scenario, specs: tuple[TargetSpec, ...], policy: Policy[Any]) -> ReconcileConfig:
    return ReconcileConfig(
        pool=PoolSpec(scenario.pool_name, scenario.gpu_model, scenario.supply),
        targets=tuple(
            ManagedTarget(
                spec,
                t.work,
                t.mean_prompt_tokens,
                t.mean_output_tokens,
                weights_bytes=t.service.weights_bytes,
                restored=spec.snapshot is not None,
            )
            for spec, t in zip(specs, scenario.targets, strict=True)
        ),
        sample_period_s=scenario.sample_period_s,
        horizon_s=_horizon_s(specs, scenario.supply[-1], policy),
        lead_times=scenario.lead_times,
    )


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
        supply=scenario.supply,
        pool_gpus=scenario.pool_gpus,
        gpus_per_node=scenario.gpus_per_node,
        gpu_model=scenario.gpu_model,
        cache_bytes=scenario.cache_bytes,
        fetch_bytes_per_s=scenario.fetch_bytes_per_s,
        seed=scenario.seed,
    )


def _horizon_s(specs: tuple[TargetSpec, ...], supply: SupplyStep, policy: Policy[Any]) -> float:
    """As far as a decision of now can matter: the slowest GPU and a wake on it, or the policy's own interval."""
    wake_s = max(min(t.lead_time.at(0.95) for t in spec.ladder[1:]) for spec in specs)
    return max(supply.lead_time.at(0.98) + wake_s + policy.interval_s, policy.interval_s * 2)
