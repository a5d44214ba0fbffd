"""The level of demand: exponential smoothing at several rates at once, and which rate forecasts best.

    level += rate x (sample - level)

Every rate of a small grid is carried for every target. Which one is used is judged, per target, by how
well the level of a moment forecast the mean of the seconds after it, on the square-root scale, over the
hour on record. A gap leaves the level where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.series import Aligned, Block, Roster
from policies.arrays import FloatArray

SMOOTHING = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Rates per sample, each about twice the one before: levels that remember some 50, 20, 10, 5 and 2 samples.
Slower ones lag behind a ramp of a minute, faster ones follow the noise of single samples."""
FIRST_RATE = 2
"""Index of the rate used until enough moments have been judged: the middle one."""
LEAST_JUDGED = 30
"""Moments that must have been judged before a rate is chosen by them: with fewer, luck chooses."""


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """What is carried from sample to sample of each target; arrays follow `roster`.

    `total` and `squares` sum all valid samples and their squares, in replicas; `last_valid_s` is the end
    of the newest valid sample, -inf before the first.
    """

    roster: Roster
    smoothed: FloatArray
    """(rates, targets), NaN before the first valid sample."""
    n_valid: NDArray[np.int64]
    total: FloatArray
    squares: FloatArray
    last_valid_s: FloatArray

    @staticmethod
    def empty() -> Levels:
        """Return the levels of no target at all."""
        none = np.empty(0)
        return Levels(Roster(), np.empty((len(SMOOTHING), 0)), np.empty(0, dtype=np.int64), none, none, none)

    def on(self, roster: Roster) -> Levels:
        """Return levels with the rows of `roster`, which continues this one with new targets at its end."""
        new = len(roster.keys) - len(self.roster.keys)
        if not new:
            return self
        zeros = np.zeros(new)
        return Levels(
            roster,
            np.concatenate((self.smoothed, np.full((len(SMOOTHING), new), np.nan)), axis=1),
            np.concatenate((self.n_valid, np.zeros(new, dtype=np.int64))),
            np.concatenate((self.total, zeros)),
            np.concatenate((self.squares, zeros)),
            np.concatenate((self.last_valid_s, np.full(new, -np.inf))),
        )

    def only(self, rows: NDArray[np.intp]) -> Levels:
        """Return the levels of these rows."""
        return Levels(
            self.roster.only(rows),
            self.smoothed[:, rows],
            self.n_valid[rows],
            self.total[rows],
            self.squares[rows],
            self.last_valid_s[rows],
        )

    def dispersion(self) -> FloatArray:
        """Return variance over mean of the samples of each target, (targets,); 1 while nothing is known."""
        n = np.maximum(self.n_valid, 1)
        mean = self.total / n
        variance = np.maximum(self.squares / n - mean**2, 0.0)
        return np.where(mean > 0, variance / np.maximum(mean, 1e-9), 1.0)


def follow(levels: Levels, start_s: float, period_s: float, demand: FloatArray) -> tuple[Levels, NDArray[np.float32]]:
    """Take in `demand` (targets, samples); return the new levels and (rates, targets, samples) after each sample.

    Sample by sample, so that one frame or many of the same samples give the same bytes.
    """
    samples = np.ascontiguousarray(demand.T)
    seen = np.isfinite(samples)
    smoothed, path = _smooth(levels.smoothed, samples, seen)
    valid = np.where(seen, samples, 0.0)
    ends_s = start_s + period_s * np.arange(1, len(samples) + 1)
    newest_s = np.where(seen, ends_s[:, None], -np.inf).max(axis=0, initial=-np.inf)
    after = replace(
        levels,
        smoothed=smoothed,
        n_valid=levels.n_valid + seen.sum(axis=0),
        total=add_in_order(levels.total, valid),
        squares=add_in_order(levels.squares, valid**2),
        last_valid_s=np.maximum(levels.last_valid_s, newest_s),
    )
    return after, path


def _smooth(before: FloatArray, samples: FloatArray, seen: NDArray[np.bool_]) -> tuple[FloatArray, NDArray[np.float32]]:
    """Smooth (samples, targets) on from `before` (rates, targets); the first valid sample sets the level."""
    level = before.copy()
    fresh = np.isnan(level[0]) & seen.any(axis=0)
    first = seen.argmax(axis=0)
    level[:, fresh] = samples[first[fresh], fresh.nonzero()[0]]
    rates = np.array(SMOOTHING)[:, None]
    known = np.where(seen, samples, 0.0)
    path = np.empty((*level.shape, len(samples)), dtype=np.float32)
    for j, sample in enumerate(known):
        step = sample - level
        step *= rates
        step *= seen[j]
        level += step
        path[:, :, j] = level
    for target in fresh.nonzero()[0]:
        path[:, target, : first[target]] = np.nan
    return level, path


def add_in_order(total: FloatArray, terms: FloatArray) -> FloatArray:
    """Add the rows of `terms` (n, targets) to `total` (targets,) one by one.

    numpy's own sums choose their order by the array's shape; one by one, the sum of a target does not
    depend on how many targets or rows come with it.
    """
    for term in terms:
        total = total + term
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Squared errors of each rate's forecasts over one stretch of moments, rows after `roster`."""

    roster: Roster
    error: FloatArray
    """(rates, targets), summed over moments."""
    moments: NDArray[np.int64]
    """(targets,): how many had a level and no gap after them."""


def judge(blocks: tuple[Block, ...], roster: Roster, ahead: int) -> Judged:
    """Judge the moments that the newest of `blocks` completes: those whose `ahead` samples end within it."""
    history = Aligned(blocks, roster)
    last = min(blocks[-1].n_samples + ahead, history.n_samples)
    everything = slice(0, len(roster.keys))
    demand = history.demand(everything, last).astype(np.float64)
    n = last - ahead
    if n <= 0:
        return Judged(roster, np.zeros((len(SMOOTHING), len(roster.keys))), np.zeros(len(roster.keys), dtype=np.int64))
    level = np.sqrt(history.levels(everything, last)[..., :n])
    follows = np.lib.stride_tricks.sliding_window_view(demand, ahead, axis=1)[:, 1 : n + 1]
    error = level - np.sqrt(np.maximum(_mean_in_order(follows), 0.0))
    counted = np.isfinite(error[0])
    squared = np.where(counted, error, 0.0) ** 2
    return Judged(roster, squared.sum(axis=-1), counted.sum(axis=-1))


def _mean_in_order(windows: FloatArray) -> FloatArray:
    total = windows[..., 0].copy()
    for j in range(1, windows.shape[-1]):
        total += windows[..., j]
    mean: FloatArray = total / windows.shape[-1]
    return mean


def choose_rates(judged: tuple[Judged, ...], roster: Roster) -> NDArray[np.intp]:
    """Return the index of the best rate of each target of `roster`, (targets,)."""
    n = len(roster.keys)
    error, moments = np.zeros((len(SMOOTHING), n)), np.zeros(n, dtype=np.int64)
    rows = {id(j.roster): roster.rows_in(j.roster) for j in judged}
    for one in judged:
        index = rows[id(one.roster)]
        there = slice(None) if index is None else (index >= 0).nonzero()[0]
        source = there if index is None else index[there]
        error[:, there] += one.error[:, source]
        moments[there] += one.moments[source]
    best: NDArray[np.intp] = np.where(moments >= LEAST_JUDGED, np.argmin(error, axis=0), FIRST_RATE)
    return best
