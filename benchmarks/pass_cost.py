"""What one reconcile pass costs, from metrics to actions, for pools of 5 to 2,000 targets.

`python -m benchmarks.pass_cost [--targets N ...] [--json FILE]` runs each size in a process of its own: an hour of
noisy demand is bootstrapped, then passes follow one another on a cluster that obeys at once. Printed are milliseconds
of CPU time per pass (the median and the largest, refits and placements among them), the parts of a pass, peak memory,
and, since milliseconds of a shared machine say little by themselves, the ratio to a pass under an HPA in the same run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoscaler import reconcile as reconciling
from autoscaler.config import ManagedTarget, ReconcileConfig
from autoscaler.forecast import SamplePathForecaster
from autoscaler.leadtimes.parts import load_lead_times
from autoscaler.outcomes import Done, Outcome
from autoscaler.planbook import PlanBook
from autoscaler.ports import ClusterView, MetricFrame, PassRecord
from autoscaler.reconcile import Ports, reconcile, resumed
from policies.actions import Action
from policies.arrays import FloatArray
from policies.baselines.hpa import HpaPolicy
from policies.capacity import WorkRate
from policies.decide import ForethawPolicy
from policies.effects import after
from policies.keys import SnapshotKey, TargetKey
from policies.types import NodeObservation, Phase, PoolSpec, ReplicaView, TargetSpec

SIZES = (5, 50, 200, 1000, 2000)
PATHS, WARM_UP, PASSES = 1000, 20, 40
REPLICAS, GPUS_A_NODE = 2, 8
HISTORY_S, PERIOD_S = 3600.0, 1.0
WEIGHTS_BYTES = 16 * 10**9


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, nargs="+", default=list(SIZES), help="sizes of the pool")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(measured(asked.one)))
        return
    rows = [_in_own_process(size) for size in asked.targets]
    print(f"{'targets':>8} {'median ms':>10} {'largest ms':>11} {'ms/target':>10} {'over HPA':>9} {'peak MB':>8}")
    for row in rows:
        print(
            f"{row['targets']:8d} {row['median_ms']:10.1f} {row['largest_ms']:11.1f} "
            f"{row['median_ms'] / row['targets']:10.3f} {row['over_hpa']:8.1f}x {row['peak_mb']:8.0f}"
        )
        print(" " * 9 + ", ".join(f"{name} {ms:.1f}" for name, ms in row["parts_ms"].items()))
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _in_own_process(size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pass_cost", "--one", str(size)]
    row: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return row


def measured(size: int) -> dict[str, Any]:
    """Return the figures of one size; times are CPU milliseconds of this process."""
    parts: defaultdict[str, list[float]] = defaultdict(list)
    with _parts_timed(parts):
        ours = _passes(size, ForethawPolicy(), SamplePathForecaster(seed=1, n_paths=PATHS))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    hpa = _passes(size, HpaPolicy(interval_s=2.0), SamplePathForecaster(seed=1, n_paths=PATHS))
    return {
        "targets": size,
        "median_ms": statistics.median(ours),
        "largest_ms": max(ours),
        "over_hpa": statistics.median(ours) / statistics.median(hpa),
        "peak_mb": peak_mb,
        "parts_ms": {name: statistics.median(spent[-PASSES:]) for name, spent in parts.items()},
    }


@contextmanager
def _parts_timed(parts: defaultdict[str, list[float]]) -> Iterator[None]:
    """Time what a pass calls, by wrapping the names that `reconcile` looks up."""
    names = ("_absorb", "decision_input", "checked", "assign")
    kept = {name: getattr(reconciling, name) for name in names}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            answer = call(*args, **kwargs)
            parts[name.strip("_")].append((time.process_time() - began) * 1000.0)
            return answer

        return wrapped

    for name, call in kept.items():
        setattr(reconciling, name, timed(name, call))
    forecast, decide = SamplePathForecaster.paths, ForethawPolicy.decide
    SamplePathForecaster.paths = timed("paths", forecast)  # type: ignore[method-assign]  # undone below
    ForethawPolicy.decide = timed("decide", decide)  # type: ignore[method-assign]  # undone below
    try:
        yield
    finally:
        for name, call in kept.items():
            setattr(reconciling, name, call)
        SamplePathForecaster.paths = forecast  # type: ignore[method-assign]  # as it was
        ForethawPolicy.decide = decide  # type: ignore[method-assign]  # as it was


def _passes(size: int, policy: Any, forecaster: Any) -> list[float]:
    """Return the CPU milliseconds of each pass."""
    config = _config(size)
    ports = Ports(Demand(config.keys), Obeying(_view(config)), forecaster, LastRecord(), PlanBook())
    now_s = HISTORY_S
    state = resumed(ports, policy, config, now_s)
    spent = []
    for n in range(WARM_UP + PASSES):
        began = time.process_time()
        state, now_s = reconcile(ports, policy, config, state, now_s)
        if n >= WARM_UP:
            spent.append((time.process_time() - began) * 1000.0)
    return spent


def _config(size: int) -> ReconcileConfig:
    lead_times = load_lead_times("h100")
    targets = []
    for n in range(size):
        gpus = (1, 1, 1, 2, 4)[n % 5]
        key = TargetKey("bench", f"model-{n:04d}")
        spec = TargetSpec(
            key,
            gpus,
            1,
            500,
            slo_wait_s=2.0,
            miss_cost=5.0,
            rated_rps=20.0,
            rated_concurrency=200.0,
            ladder=lead_times.ladder(gpus, WEIGHTS_BYTES, restored=True),
            artifact_bytes=18 * 10**9,
            snapshot=SnapshotKey(key, "sha"),
        )
        targets.append(ManagedTarget(spec, WorkRate(0.05, 0.0, 0.0), 500.0, 100.0, weights_bytes=WEIGHTS_BYTES))
    pool = PoolSpec("pool", "h100", lead_times.supply("lent"))
    return ReconcileConfig(pool, tuple(targets), lead_times=lead_times, horizon_s=384.0)


def _view(config: ReconcileConfig) -> ClusterView:
    """Return a cluster where every target serves, most GPUs are idle, and caches are scarce."""
    replicas: dict[TargetKey, tuple[ReplicaView, ...]] = {}
    used: dict[int, int] = {}
    node = 0
    for target in config.targets:
        spec, members = target.spec, []
        for r in range(REPLICAS):
            if used.get(node, 0) + spec.gpus_per_replica > 2:
                node += 1
            used[node] = used.get(node, 0) + spec.gpus_per_replica
            members.append(ReplicaView(f"{spec.key.name}-{r}", spec.key, Phase.ACTIVE, f"node-{node:04d}", 0.0))
        replicas[spec.key] = tuple(members)
    snapshots = [t.spec.snapshot for t in config.targets if t.spec.snapshot is not None]
    nodes = []
    for i in range(node + 1):
        there = frozenset(snapshots[(7 * i + k) % len(snapshots)] for k in range(min(20, len(snapshots))))
        idle = GPUS_A_NODE - used.get(i, 0)
        nodes.append(NodeObservation(f"node-{i:04d}", GPUS_A_NODE, 1, idle - 1, 0, there, frozenset(), 10**11, "h100"))
    return ClusterView(HISTORY_S, replicas, {}, tuple(nodes), GPUS_A_NODE * len(nodes))


@dataclass
class Demand:
    """Implements `MetricSource`: gamma noise around a level for each target, equal for equal moments."""

    keys: tuple[TargetKey, ...]

    def read(self, keys: Collection[TargetKey], after_s: float, until_s: float) -> MetricFrame:
        """Return samples of one second."""
        samples = round((until_s - after_s) / PERIOD_S)
        random = np.random.default_rng(int(after_s))
        level = 20.0 + 15.0 * np.sin(np.arange(len(self.keys)))[:, None]
        offered: FloatArray = random.gamma(4.0, level / 4.0, (len(self.keys), samples))
        zeros = np.zeros_like(offered)
        return MetricFrame(
            self.keys,
            after_s,
            PERIOD_S,
            offered,
            offered * 500.0,
            offered,
            offered * 100.0,
            offered * 5.0,
            zeros,
            zeros,
        )


@dataclass
class Obeying:
    """Implements `Cluster` by the effects of actions, each in force at once."""

    view: ClusterView

    def observe(self, now_s: float) -> ClusterView:
        """Return what is there."""
        return self.view

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        """Let every replica that was asked for serve at once."""
        replicas, nodes = after(actions, self.view.replicas, self.view.nodes, now_s)
        served = {
            key: tuple(replace(r, phase=Phase.ACTIVE) for r in members if r.phase is not Phase.DRAINING)
            for key, members in replicas.items()
        }
        self.view = replace(self.view, replicas=served, nodes=nodes)
        return {a.name: Done() for a in actions}


@dataclass
class LastRecord:
    """Implements `Recorder`; keeps the newest."""

    newest: PassRecord | None = field(default=None)

    def begin(self, record: PassRecord) -> None:
        """Keep it."""
        self.newest = record

    def complete(self, record: PassRecord) -> None:
        """Keep it."""
        self.newest = record

    def last(self, pool: str) -> PassRecord | None:
        """Return it."""
        return self.newest


if __name__ == "__main__":
    main()
