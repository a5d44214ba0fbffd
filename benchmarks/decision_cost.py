"""What one decision and one forecast cost: milliseconds for five targets and 1,000 sample paths.

`python -m benchmarks.decision_cost [--json FILE]` prints medians over many calls, and the decision's
ratio to an HPA's on the same input, since milliseconds of a shared machine say little by themselves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoscaler.forecast import DemandFrame, SamplePathForecaster
from autoscaler.leadtimes.parts import load_lead_times
from policies.baselines.hpa import HpaPolicy
from policies.decide import ForethawPolicy
from policies.keys import TargetKey
from policies.paths import DemandPaths
from policies.types import (
    ACTIVE,
    DecisionInput,
    NodeObservation,
    TargetObservation,
    TargetSpec,
)

TARGETS, PATHS, NODES, REPEATS = 5, 1000, 40, 300
NAMES = tuple(f"model-{i}" for i in range(TARGETS))
HORIZON_S = 30.0


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    forecaster, keys = SamplePathForecaster(seed=1, n_paths=PATHS), tuple(TargetKey("default", n) for n in NAMES)
    random = np.random.default_rng(1)
    load = random.gamma(20.0, 2.0, (TARGETS, 1800))
    state = forecaster.bootstrap(DemandFrame(0.0, 1.0, dict(zip(keys, load, strict=True))))
    new = DemandFrame(1800.0, 1.0, dict(zip(keys, load[:, :2], strict=True)))
    given = _given(load, forecaster.paths(state, keys, 1800.0, HORIZON_S))
    ours, hpa = ForethawPolicy(), HpaPolicy()
    # Snapshots are placed anew every 30 s only: the usual decision finds them placed.
    memory = ours.decide(given, ours.initial(given.targets)).memory
    hpa_memory = hpa.initial(given.targets)
    costs = {
        "forecast_ms": _median_ms(lambda: forecaster.paths(forecaster.absorb(state, new), keys, 1802.0, HORIZON_S)),
        "decision_ms": _median_ms(lambda: ours.decide(given, memory)),
        "hpa_ms": _median_ms(lambda: hpa.decide(given, hpa_memory)),
    }
    costs["decision_over_hpa"] = costs["decision_ms"] / costs["hpa_ms"]
    for name, value in costs.items():
        print(f"{name:20s} {value:8.3f}")
    if asked.json:
        asked.json.write_text(json.dumps(costs, indent=2), encoding="utf-8")


def _given(load: np.ndarray, paths: DemandPaths) -> DecisionInput:
    lead_times = load_lead_times("h100")
    ladder = lead_times.ladder(1, 16 * 10**9, restored=True)
    targets = tuple(TargetSpec(n, 1, 1, 500, 2.0, 5.0, 20.0, 200.0, ladder, 18 * 10**9) for n in NAMES)
    observed = tuple(
        TargetObservation({ACTIVE: 48}, 1, 1, load[i, -300:], load[i, -300:] * 100.0, True, 0.5) for i in range(TARGETS)
    )
    nodes = tuple(NodeObservation(f"node-{i}", 8, 1, 1, 0, frozenset(NAMES), frozenset(), 10**12) for i in range(NODES))
    return DecisionInput(1800.0, 1.0, targets, observed, lead_times.supply("lent"), nodes, 8 * NODES, paths, 2.0)


def _median_ms(call: Callable[[], object]) -> float:
    spent = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent) * 1000.0


if __name__ == "__main__":
    main()
