"""The series of all rows as one compact block of data for the page.

Series are thinned to a number of points (means; the maximum for a latency, so that a spike survives;
counts become rates first), rounded to four digits, and stored once where rows share them: all rows
meet the same arrivals. A series that never changes is stored as one number. If the block is still too
large, all series are thinned further by the same factor, so that the file stays small whatever the
replay's length. `assets/report.js` unpacks it; `plots.py` says how each series is drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.arrays import FloatArray
from simulations.results import GPU_STATES, Comparison, RunSeries

MAX_POINTS = 1500
MAX_BYTES = 2_600_000
"""With plotly.js (4.8 MB) the page stays below 8 MB."""

SIGNIFICANT_DIGITS = 4

SMALLEST_POWER = -12.0
"""Nothing on the page is smaller than a picosecond: what is, is drawn as zero."""

Thin = Callable[[FloatArray, int], FloatArray]


@dataclass(frozen=True, slots=True)
class Timelines:
    """The data block: what the page's script reads, ready to be dumped."""

    arrays: tuple[str, ...]
    """Each distinct series as a JSON array; rows refer to it by index."""
    rows: tuple[dict[str, Any], ...]
    """Per row: name, start and step of its buckets, indices by target and by GPU state."""
    thinned: bool
    """Some series has fewer points than the replay has buckets."""

    def as_json(self) -> str:
        """Return the series as the JSON text that the page decodes."""
        rows = json.dumps(self.rows, separators=(",", ":"), ensure_ascii=False)
        return f'{{"arrays":[{",".join(self.arrays)}],"rows":{rows}}}'


def thinned_by_mean(values: FloatArray, factor: int) -> FloatArray:
    """Means of `factor` buckets each along the last axis, unknown ones left out; NaN where none is known."""
    groups = _grouped(values, factor)
    known = ~np.isnan(groups)
    n = known.sum(axis=-1)
    total = np.where(known, groups, 0.0).sum(axis=-1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def thinned_by_max(values: FloatArray, factor: int) -> FloatArray:
    """Maxima of `factor` buckets each along the last axis; NaN where none is known."""
    groups = _grouped(values, factor)
    unknown = np.isnan(groups)
    highest = np.where(unknown, -np.inf, groups).max(axis=-1, initial=-np.inf)
    return np.where(unknown.all(axis=-1), np.nan, highest)


def _grouped(values: FloatArray, factor: int) -> FloatArray:
    """(..., buckets) to (..., groups, factor), the last group filled up with NaN."""
    n = values.shape[-1]
    groups = math.ceil(n / factor)
    filled = np.full((*values.shape[:-1], groups * factor), np.nan)
    filled[..., :n] = values
    return filled.reshape(*values.shape[:-1], groups, factor)


def timelines(comparison: Comparison, max_points: int = MAX_POINTS, max_bytes: int = MAX_BYTES) -> Timelines:
    """Encode every row's series with at most `max_points` points each and `max_bytes` in all (UTF-8)."""
    points = max_points
    while True:
        block = _encoded(comparison, points)
        size = sum(len(a) + 1 for a in block.arrays)
        if size <= max_bytes or points <= 16:
            return block
        # Aim a little below, since text does not shrink quite in proportion.
        points = max(16, int(points * min(0.95, 0.97 * max_bytes / size)))


class _Arrays:
    """Distinct arrays in the order first met."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    def index(self, values: FloatArray) -> int:
        return self._index.setdefault(packed(values), len(self._index))

    def all(self) -> tuple[str, ...]:
        return tuple(self._index)


def _encoded(comparison: Comparison, points: int) -> Timelines:
    arrays = _Arrays()
    rows = []
    thinned = False
    for run in comparison.rows:
        row: dict[str, Any] = {"name": run.row, "targets": [], "gpus": {}}
        if run.series is not None and run.series.time_s.size:
            factor = max(math.ceil(run.series.time_s.size / points), 1)
            thinned |= factor > 1
            row |= _row_block(run.series, factor, arrays)
        rows.append(row)
    return Timelines(arrays.all(), tuple(rows), thinned)


def _row_block(series: RunSeries, factor: int, arrays: _Arrays) -> dict[str, Any]:
    per_target = _target_series(series)
    n_targets = series.active.shape[0]
    targets = [
        {name: arrays.index(thin(values[i], factor)) for name, (values, thin) in per_target.items()}
        for i in range(n_targets)
    ]
    gpus = {
        state: arrays.index(thinned_by_mean(series.gpus[state], factor)) for state in GPU_STATES if state in series.gpus
    }
    return {
        "start_s": float(series.time_s[0]),
        "step_s": series.bucket_s * factor,
        "points": math.ceil(series.time_s.size / factor),
        "targets": targets,
        "gpus": gpus,
    }


def _target_series(series: RunSeries) -> dict[str, tuple[FloatArray, Thin]]:
    """Name on the page to (targets, buckets) and the way to thin it."""
    means = {
        "offered_rps": series.offered_rps,
        "demand": series.demand_replicas,
        "forecast_low": series.forecast_low,
        "forecast_median": series.forecast_median,
        "forecast_high": series.forecast_high,
        "active": series.active,
        "starting": series.starting,
        "draining": series.draining,
        "warm": series.warm,
        "misses_per_min": series.misses * (60.0 / series.bucket_s),
    }
    latencies = {
        "ttft_p50": series.ttft_p50_s,
        "ttft_p95": series.ttft_p95_s,
        "ttft_p99": series.ttft_p99_s,
    }
    thinned: dict[str, tuple[FloatArray, Thin]] = {k: (v, thinned_by_mean) for k, v in means.items()}
    thinned |= {k: (v, thinned_by_max) for k, v in latencies.items()}
    return thinned


def packed(values: FloatArray) -> str:
    """Return a JSON array at four significant digits, unknown as null; one element if all are equal."""
    rounded = _rounded(values)
    if rounded.size and (np.isnan(rounded).all() or (rounded == rounded[0]).all()):
        rounded = rounded[:1]
    return "[" + ",".join("null" if math.isnan(v) else f"{v:.12g}" for v in rounded.tolist()) + "]"


def _rounded(values: FloatArray) -> FloatArray:
    finite = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.floor(np.log10(np.abs(finite)))
    magnitude = np.where(np.isfinite(magnitude), np.maximum(magnitude, SMALLEST_POWER), 0.0)
    scale = np.power(10.0, SIGNIFICANT_DIGITS - 1 - magnitude)
    rounded: FloatArray = np.round(finite * scale) / scale + 0.0
    return rounded
