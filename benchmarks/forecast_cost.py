"""What forecasting costs: seconds and memory for absorbing two seconds of samples and reading paths.

`python -m benchmarks.forecast_cost [--targets N] [--missing SHARE] [--json FILE]` prints medians over two
simulated minutes with 1,000 paths on all steps, apart for passes between refits and for those at a refit,
and the ratio to one copy of the paths' own memory, which no forecast can do without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from autoscaler.forecast import DemandFrame, PathState, SamplePathForecaster
from policies.arrays import FloatArray
from policies.keys import TargetKey

HISTORY_S, PASSES, HORIZON_S, PATHS = 3600, 70, 384.0, 1000


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--missing", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    costs = _costs(asked.targets, asked.missing)
    for name, value in costs.items():
        print(f"{name:24s} {value:10.3f}")
    if asked.json:
        asked.json.write_text(json.dumps(costs, indent=2), encoding="utf-8")


def _costs(targets: int, missing: float) -> dict[str, float]:
    keys = tuple(TargetKey("default", f"model-{i}") for i in range(targets))
    load = _load(targets, missing)
    forecaster = SamplePathForecaster(seed=1, n_paths=PATHS)
    begun = time.perf_counter()
    state = forecaster.bootstrap(DemandFrame(0.0, 1.0, dict(zip(keys, load[:, :HISTORY_S], strict=True))))
    bootstrap_ms = (time.perf_counter() - begun) * 1000.0
    between: list[float] = []
    at_refit: list[float] = []
    copy_ms = 0.0
    for at in range(HISTORY_S, HISTORY_S + 2 * PASSES, 2):
        frame = DemandFrame(float(at), 1.0, {k: load[i, at : at + 2] for i, k in enumerate(keys)})
        spent_ms, copy_ms, after = _pass(forecaster, state, keys, frame)
        (between if after.fit is state.fit else at_refit).append(spent_ms)
        state = after
    pass_ms = statistics.median(between[1:])  # the first draws the residuals of the bootstrapped state
    return {
        "bootstrap_ms": bootstrap_ms,
        "pass_ms": pass_ms,
        "refit_pass_ms": max(at_refit),
        "pass_over_copy": pass_ms / copy_ms,
    }


def _pass(
    forecaster: SamplePathForecaster, state: PathState, keys: tuple[TargetKey, ...], frame: DemandFrame
) -> tuple[float, float, PathState]:
    """Absorb and read once; return its milliseconds, those of copying the paths once, and the new state."""
    begun = time.perf_counter()
    after = forecaster.absorb(state, frame)
    paths = forecaster.paths(after, keys, frame.until_s, HORIZON_S)
    spent_s = time.perf_counter() - begun
    begun = time.perf_counter()
    paths.paths.copy(order="K")
    return spent_s * 1000.0, (time.perf_counter() - begun) * 1000.0, after


def _load(targets: int, missing: float) -> FloatArray:
    random = np.random.default_rng(1)
    load = random.gamma(20.0, 2.0, (targets, HISTORY_S + 2 * PASSES))
    load[random.random(load.shape) < missing] = np.nan
    return load


if __name__ == "__main__":
    main()
