"""Residuals that really happened: how the steps after a moment differed from the level of that moment.

    residual = sqrt(mean of the step) - sqrt(level of the moment)

On the square-root scale counts of any size are equally noisy (Anscombe 1948). Moments are drawn from the
last hour, recent ones preferred, and one draw serves all targets: bursts and ramps that came together stay
together, no law is assumed, and coverage follows from the record (the historical-simulation or
rolling-origin bootstrap; Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 5.5).

A drawn moment is usable for a target if its level was fresh and each step after it has at least half of
its samples. Where it is not, the target draws one of its own usable moments, independently of the joint
draw; the second draw is one number a path, too, so that targets with the same record still agree. A target
with too few usable moments has no residuals: `assumed_noise` serves it.

Every draw is a function of (seed, time of the refit) or (seed, time of the refit, key): who else is there,
and in which order, changes no byte of a target's residuals.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.series import Aligned
from autoscaler.forecast.steps import Steps
from policies.arrays import FloatArray
from policies.keys import TargetKey

LEAST_MOMENTS = 30
"""Usable moments without which a target has no residuals: a quantile of fewer is one lucky or unlucky value."""
FRESH_SAMPLES = 5
"""Samples up to a moment that must all be there: the fastest level forgets what is older."""
T = TypeVar("T", bound=np.generic)

TILE = 16
"""Targets at a time: their hour of samples fits into a core's cache, and temporary arrays stay small."""

JOINT_DRAW, NOISE_DRAW = 0xF0, 0xF1
"""Streams of random numbers that must not overlap."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What is drawn from: `memory` samples at most, weighted to halve every `half_life` samples."""

    seed: int
    at_s: float
    n_paths: int
    memory: int
    half_life: float


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """Residuals of the targets that have them.

    `values` is (targets with residuals, steps, paths), single precision; `row` is (all targets,), -1 for
    a target without.
    """

    values: NDArray[np.float32]
    row: NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """The moments that may be drawn with their weights, the joint draw, and a second number for each path."""

    weight: FloatArray
    """(moments,): the first is after FRESH_SAMPLES + 1 samples."""
    joint: NDArray[np.intp]
    """(paths,): position among the moments."""
    own: FloatArray
    """(paths,), uniform in [0, 1)."""


def draw_residuals(history: Aligned, rates: NDArray[np.intp], steps: Steps, draw: Draw) -> Residuals:
    """Return residuals on `steps`; `rates` (targets,) is the index of each target's smoothing rate.

    A step that ends beyond the record's reach, half of it at the most, repeats the step before it.
    """
    n_targets, last = len(rates), min(history.n_samples, draw.memory)
    reach = min(steps[-1][1], last // 2)
    steps = (steps[0], *((begin, end) if end <= reach else (begin, begin) for begin, end in steps[1:]))
    moments = _moments(last, reach, draw)
    values = np.empty((n_targets, len(steps), draw.n_paths), dtype=np.float32)
    row = np.full(n_targets, -1, dtype=np.intp)
    filled = 0
    if moments is None:
        return Residuals(np.empty((0, len(steps), draw.n_paths), dtype=np.float32), row)
    for begin in range(0, n_targets, TILE):
        tile = slice(begin, min(begin + TILE, n_targets))
        demand, level = history.demand(tile, last), history.chosen_levels(tile, rates[tile], last)
        found = _drawn_steps(demand, level, steps, moments, values[filled:])
        row[begin + found] = filled + np.arange(len(found))
        filled += len(found)
    return Residuals(values[:filled], row)


def _moments(n_samples: int, reach: int, draw: Draw) -> _Moments | None:
    """Weigh the moments with a whole reach after them and draw among them; None if there are too few."""
    count = n_samples - reach - FRESH_SAMPLES
    if count < LEAST_MOMENTS:
        return None
    age = n_samples - 1 - (FRESH_SAMPLES + np.arange(count))
    weight = 0.5 ** (age / draw.half_life)
    random = np.random.default_rng(np.random.SeedSequence([draw.seed, JOINT_DRAW, _ticks(draw.at_s)]))
    joint, own = random.random(draw.n_paths), random.random(draw.n_paths)
    return _Moments(weight, _positions(weight, joint), own)


def _positions(weight: FloatArray, uniform: FloatArray) -> NDArray[np.intp]:
    """Invert the cumulated weights: the position that each uniform number falls on."""
    total = np.cumsum(weight)
    positions: NDArray[np.intp] = np.searchsorted(total, uniform * total[-1], side="right")
    return positions


def _drawn_steps(
    demand: NDArray[np.float32],
    level: NDArray[np.float32],
    steps: Steps,
    moments: _Moments,
    out: NDArray[np.float32],
) -> NDArray[np.intp]:
    """Write the residuals of one tile's targets to the first rows of `out`; return the targets that have any."""
    there = np.isfinite(demand)
    if there.all():
        found = np.arange(len(demand))
        drawn = np.broadcast_to(moments.joint, (len(demand), len(moments.joint)))
        counts = None
    else:
        counts = _prefix_sums(there, np.float32)
        usable = _usable(counts, steps, len(moments.weight))
        found = np.flatnonzero(usable.sum(axis=1) >= LEAST_MOMENTS)
        if not len(found):
            return found
        drawn = np.array([_positions_of(usable[i], moments) for i in found])
        demand, level, counts = demand[found], level[found], counts[found]
    sums = _prefix_sums(np.nan_to_num(demand), np.float64)
    _residuals(sums, counts, level, drawn + FRESH_SAMPLES, steps, out)
    return found


def _prefix_sums(values: NDArray[np.generic], kind: type[T]) -> NDArray[T]:
    """Return sums up to each sample, (targets, samples + 1), beginning with zero."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1), dtype=kind)
    np.cumsum(values, axis=1, dtype=kind, out=sums[:, 1:])
    return sums


def _usable(counts: NDArray[np.float32], steps: Steps, n_moments: int) -> NDArray[np.bool_]:
    """Return which moments serve which target, (targets, moments), from prefix sums of the samples there are."""

    def between(begin: int, end: int) -> NDArray[np.float32]:
        first = FRESH_SAMPLES + 1
        later = counts[:, first + end : first + end + n_moments]
        return later - counts[:, first + begin : first + begin + n_moments]

    usable: NDArray[np.bool_] = between(-FRESH_SAMPLES, 0) == FRESH_SAMPLES
    for begin, end in steps:
        if begin < end:
            usable &= 2 * between(begin, end) >= end - begin
    return usable


def _positions_of(usable: NDArray[np.bool_], moments: _Moments) -> NDArray[np.intp]:
    """Return the moment of each path for one target: the joint draw where usable, else a draw of its own."""
    drawn = moments.joint
    unusable = ~usable[drawn]
    if unusable.any():
        drawn = drawn.copy()
        drawn[unusable] = _positions(moments.weight * usable, moments.own[unusable])
    return drawn


def _residuals(  # noqa: PLR0913, PLR0917 - arrays that a fit has and a state does not keep
    sums: FloatArray,
    counts: NDArray[np.float32] | None,
    level: NDArray[np.float32],
    drawn: NDArray[np.intp],
    steps: Steps,
    out: NDArray[np.float32],
) -> None:
    """Write the residuals after the samples `drawn` (targets, paths) to `out` (targets, steps, paths)."""
    targets = np.arange(len(drawn))[:, None]
    root_level = np.sqrt(level.ravel().take(drawn + targets * level.shape[1]))
    at = drawn + 1 + targets * sums.shape[1]

    def up_to(prefix_sums: NDArray[T], end: int) -> NDArray[T]:
        # A shifted view instead of shifted indices: one pass less over (targets, paths).
        found: NDArray[T] = prefix_sums.ravel()[end:].take(at, mode="clip")
        return found

    before, counted = up_to(sums, 0), None if counts is None else up_to(counts, 0)
    for h, (begin, end) in enumerate(steps):
        if begin == end:
            out[: len(drawn), h] = out[: len(drawn), h - 1]
            continue
        after = up_to(sums, end)
        mean = np.subtract(after, before, out=before).astype(np.float32)
        before = after
        if counts is None or counted is None:
            mean /= np.float32(end - begin)
        else:
            now_counted = up_to(counts, end)
            mean /= now_counted - counted
            counted = now_counted
        np.maximum(mean, 0.0, out=mean)
        np.sqrt(mean, out=mean)
        np.subtract(mean, root_level, out=out[: len(drawn), h])


def unit_noise(key: TargetKey, seed: int, at_s: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return standard normals of `shape` (steps, paths) that belong to (seed, time of the refit, key) alone."""
    name = int.from_bytes(hashlib.blake2b(str(key).encode(), digest_size=8).digest(), "big")
    random = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, NOISE_DRAW, _ticks(at_s), name])))
    return random.standard_normal(shape, dtype=np.float32)


def noise_scale(dispersion: FloatArray, steps: Steps) -> FloatArray:
    """Return the standard deviation of assumed noise, (targets, steps), for dispersions (targets,).

    A count of mean m and dispersion d has, on the square-root scale, variance d/4 per unit of time (delta
    method); a mean over a step of w samples has d/(4w).
    """
    widths = np.array([max(end - begin, 1) for begin, end in steps])
    scale: FloatArray = np.sqrt(dispersion[:, None] / (4.0 * widths))
    return scale


def _ticks(at_s: float) -> int:
    """Return a moment as a number that a seed may be made of: milliseconds, not negative."""
    return round(at_s * 1000.0) % 2**64 if np.isfinite(at_s) else 0
