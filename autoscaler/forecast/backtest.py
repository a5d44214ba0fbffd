"""How good a forecast is, by what came: pinball loss, coverage and scaled error per horizon.

A forecaster is walked through a series as a controller would walk it, a few samples at a time, and
asked at regular origins. For each horizon the window judged is the step of `grid.STEP_ENDS_S` that holds
it, the same for every forecaster, whatever steps its own paths have.

- Pinball loss: the mean over LEVELS, in replicas; low is good (Gneiting and Raftery, JASA 102, 2007). A
  point forecast is taken as all its quantiles. `pinball_99` is the 99% level's alone, which is nearest to
  what the policy asks for.
- Coverage: the share of outcomes within the central bands.
- MASE: mean absolute error of the median over that of "the last window of this length again" on the
  same origins (Hyndman and Koehler, International Journal of Forecasting 22, 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoscaler.forecast.calibration import BANDS
from autoscaler.forecast.grid import STEP_ENDS_S
from autoscaler.ports import Forecaster
from policies.types import DemandPaths, FloatArray

LEVELS = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99])


@dataclass(frozen=True, slots=True)
class BacktestRow:
    """One forecaster at one horizon, means over targets and origins."""

    model: str
    horizon_s: float
    window_s: tuple[float, float]
    """The step that was judged, seconds after the origin."""
    forecasts: int
    pinball: float
    pinball_99: float
    coverage: Mapping[float, float]
    """Band, such as 0.8, to the share of outcomes inside."""
    mase: float
    bias: float
    """Mean of forecast mean minus outcome, in replicas."""


@dataclass(frozen=True, slots=True)
class BacktestTable:
    rows: tuple[BacktestRow, ...]

    def row(self, model: str, horizon_s: float) -> BacktestRow:
        """The row of a model and horizon; KeyError if it was not judged."""
        for row in self.rows:
            if row.model == model and row.horizon_s == horizon_s:
                return row
        raise KeyError((model, horizon_s))


def backtest(
    series: FloatArray,
    make: Mapping[str, Callable[[], Forecaster]],
    horizons_s: Sequence[float],
    *,
    period_s: float = 1.0,
    tick_s: float = 2.0,
    every_s: float = 10.0,
    warmup_s: float = 600.0,
) -> BacktestTable:
    """Walk each forecaster through `series` (targets, n), in replicas, NaN for gaps.

    Samples are given every `tick_s`; forecasts are asked every `every_s` from `warmup_s` on, as long as
    the farthest horizon lies in the series. Raises ValueError if no origin is left.
    """
    windows = [_window(h) for h in horizons_s]
    tick = max(round(tick_s / period_s), 1)
    last = series.shape[1] - int(np.ceil(max(end for _, end in windows) / period_s))
    step = max(round(every_s / period_s / tick), 1) * tick
    origins = np.arange(max(-(-round(warmup_s / period_s) // tick) * tick, tick), last + 1, step)
    if origins.size == 0:
        raise ValueError(f"{series.shape[1]} samples leave no origin after {warmup_s} s with {max(horizons_s)} s ahead")
    rows: list[BacktestRow] = []
    for name, factory in make.items():
        quantiles, means = _walk(series, factory(), windows, origins, tick, period_s)
        for j, horizon_s in enumerate(horizons_s):
            actual, again = _outcomes(series, windows[j], origins, period_s)
            rows.append(_judge(name, horizon_s, windows[j], quantiles[j], means[j], actual, again))
    return BacktestTable(tuple(rows))


def over_window(paths: DemandPaths, begin_s: float, end_s: float) -> FloatArray:
    """Mean demand in (begin, end] on each path, (targets, paths); the last step is taken to go on."""
    edges = np.concatenate(([0.0], paths.step_ends_s))
    edges[-1] = max(edges[-1], end_s)
    overlap = np.maximum(np.minimum(edges[1:], end_s) - np.maximum(edges[:-1], begin_s), 0.0)
    mean: FloatArray = paths.paths @ (overlap / overlap.sum())
    return mean


def _walk(
    series: FloatArray,
    forecaster: Forecaster,
    windows: Sequence[tuple[float, float]],
    origins: FloatArray,
    tick: int,
    period_s: float,
) -> tuple[FloatArray, FloatArray]:
    """Quantiles (horizons, levels and band edges, targets, origins) and means (horizons, targets, origins)."""
    edges = [p for band in BANDS for p in ((1.0 - band) / 2.0, (1.0 + band) / 2.0)]
    probabilities = np.concatenate((LEVELS, edges))
    quantiles = np.full((len(windows), len(probabilities), len(series), len(origins)), np.nan)
    means = np.full((len(windows), len(series), len(origins)), np.nan)
    wanted = {int(o): k for k, o in enumerate(origins)}
    for at in range(tick, int(origins[-1]) + 1, tick):
        forecaster.update((at - tick) * period_s, period_s, series[:, at - tick : at])
        k = wanted.get(at)
        if k is None:
            continue
        paths = forecaster.paths(at * period_s, max(end for _, end in windows))
        for j, (begin_s, end_s) in enumerate(windows):
            drawn = over_window(paths, begin_s, end_s)
            quantiles[j, :, :, k] = np.quantile(drawn, probabilities, axis=1)
            means[j, :, k] = drawn.mean(axis=1)
    return quantiles, means


def _outcomes(
    series: FloatArray, window: tuple[float, float], origins: FloatArray, period_s: float
) -> tuple[FloatArray, FloatArray]:
    """Mean demand in the window after each origin, and in the last window of its length before; NaN in gaps."""
    sums = np.concatenate((np.zeros((len(series), 1)), np.cumsum(np.nan_to_num(series), axis=1)), axis=1)
    counts = np.concatenate((np.zeros((len(series), 1)), np.cumsum(np.isfinite(series), axis=1)), axis=1)

    def mean(begin: FloatArray, end: FloatArray) -> FloatArray:
        seen = counts[:, end] - counts[:, begin]
        found: FloatArray = (sums[:, end] - sums[:, begin]) / np.where(seen > 0, seen, np.nan)
        return found

    begin, end = (origins + round(w / period_s) for w in window)
    before = np.maximum(origins - (end - begin), 0)
    return mean(begin, np.maximum(end, begin + 1)), mean(before, origins)


def _judge(
    model: str,
    horizon_s: float,
    window: tuple[float, float],
    quantiles: FloatArray,
    means: FloatArray,
    actual: FloatArray,
    again: FloatArray,
) -> BacktestRow:
    known = np.isfinite(actual) & np.isfinite(again)
    y, q = actual[known], quantiles[:, known]
    miss = y[None, :] - q[: len(LEVELS)]
    pinball = np.maximum(LEVELS[:, None] * miss, (LEVELS[:, None] - 1.0) * miss).mean(axis=1)
    low, high = q[len(LEVELS) :: 2], q[len(LEVELS) + 1 :: 2]
    inside = ((y >= low - 1e-9) & (y <= high + 1e-9)).mean(axis=1)
    median = q[int(np.flatnonzero(LEVELS == 0.5)[0])]
    scale = float(np.abs(y - again[known]).mean())
    return BacktestRow(
        model=model,
        horizon_s=horizon_s,
        window_s=window,
        forecasts=int(known.sum()),
        pinball=float(pinball.mean()),
        pinball_99=float(pinball[-1]),
        coverage=dict(zip(BANDS, inside.tolist(), strict=True)),
        mase=float(np.abs(y - median).mean()) / scale if scale > 0 else np.nan,
        bias=float((means[known] - y).mean()),
    )


def _window(horizon_s: float) -> tuple[float, float]:
    ends = np.array((0.0, *STEP_ENDS_S))
    h = min(int(np.searchsorted(ends, horizon_s)), len(ends) - 1)
    return float(ends[h - 1]), float(ends[h])
