"""What a forecast costs per tick: milliseconds of CPU for `update` and `paths`, refits included.

    python -m benchmarks.forecast_cost [--targets 5] [--paths 1000] [--horizon-s 64]

An hour is seeded and half an hour walked in ticks of two seconds. Matrices are small: on a machine with
few cores set OPENBLAS_NUM_THREADS=1, or BLAS threads wait for each other longer than they work.
"""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
import typer

from autoscaler.forecast import SamplePathForecaster

SEEDED_S, WALKED_S, TICK_S = 3600, 1800, 2


def main(
    targets: Annotated[int, typer.Option()] = 5,
    paths: Annotated[int, typer.Option()] = 1000,
    horizon_s: Annotated[float, typer.Option()] = 64.0,
) -> None:
    """Print the mean, the median (a tick without a refit) and the longest tick (one with)."""
    means = np.geomspace(0.2, 300.0, targets)
    demand = np.random.default_rng(1).gamma(4.0, means[:, None] / 4.0, (targets, SEEDED_S + WALKED_S))
    forecaster = SamplePathForecaster(targets, seed=1, n_paths=paths)
    begin_s = time.process_time()
    forecaster.seed_history(0.0, 1.0, demand[:, :SEEDED_S])
    told = forecaster.paths(float(SEEDED_S), horizon_s)
    seeded_s = time.process_time() - begin_s
    ticks_s = []
    for at in range(SEEDED_S, SEEDED_S + WALKED_S, TICK_S):
        begin_s = time.process_time()
        forecaster.update(float(at), 1.0, demand[:, at : at + TICK_S])
        forecaster.paths(float(at + TICK_S), horizon_s)
        ticks_s.append(time.process_time() - begin_s)
    ticks_ms = 1000.0 * np.array(ticks_s)
    shape = " x ".join(str(n) for n in told.paths.shape)
    print(f"{shape} (targets x paths x steps); an hour of history: {seeded_s:.2f} s")
    print(f"ms per tick: mean {ticks_ms.mean():.3f}, median {np.median(ticks_ms):.3f}, most {ticks_ms.max():.2f}")


if __name__ == "__main__":
    typer.run(main)
