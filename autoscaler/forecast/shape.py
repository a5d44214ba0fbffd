"""The slow shape of demand: the hour of the day and the day of the week, once enough of them are known.

A harmonic regression (Fourier terms of the day, and of the week from a week on; Hyndman and
Athanasopoulos, Forecasting: Principles and Practice, 7.4) on the logarithm of ten-minute means says by
which factor demand usually differs between now and later. The level of the moment is not its business:
only the ratio is used, and only for horizons over a minute, where the shape moves at all.

All targets are solved at once by their normal equations, each over the bins that it has; every half hour,
on the half hour. Means, weights and everything between are values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.levels import add_in_order
from autoscaler.forecast.series import ABSENT, SAME_MOMENT_S, Roster
from policies.arrays import FloatArray

BIN_S = 600.0
DAY_S = 86400.0
LEAST_BINS = 36
"""Six hours: with less, a Fourier term of the day would fit the trend of the morning."""
MOST_BINS = 2016
"""Two weeks: two of each day of the week, and a bound on what is kept and solved."""
REFIT_EVERY_BINS = 3
HARMONICS_DAY, HARMONICS_WEEK = 4, 2
MOST_RATIO_PER_HOUR = 4.0
"""No more than a fourfold rise or fall within an hour is believed; an extrapolation may promise anything."""
SHAPE_FROM_S = 60.0
"""Nearer than this the shape has not moved, and its noise would only disturb the level."""
RIDGE = 1e-9
"""Of the number of bins, added to the diagonal: makes six hours of four harmonics solvable, changes no more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Bin:
    """The means of one ten-minute bin, (targets,) after `roster`, NaN for those without a sample."""

    index: int
    roster: Roster
    mean: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """Regression weights, (targets, terms) after `roster`; zeros for a target with too few bins."""

    roster: Roster
    values: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class SlowShape:
    """Ten-minute means of each target, and the ratio between two moments that they teach."""

    roster: Roster
    open_bin: int
    """Index of the bin that samples fall into, in bins since time 0; ABSENT before the first sample."""
    total: FloatArray
    count: FloatArray
    closed: tuple[_Bin, ...]
    weights: _Weights | None

    @staticmethod
    def empty() -> SlowShape:
        """Return the shape of no target at all."""
        return SlowShape(Roster(), ABSENT, np.empty(0), np.empty(0), (), None)

    def on(self, roster: Roster) -> SlowShape:
        """Return the shape with the rows of `roster`, which continues this one with new targets at its end."""
        zeros = np.zeros(len(roster.keys) - len(self.roster.keys))
        return replace(
            self,
            roster=roster,
            total=np.concatenate((self.total, zeros)),
            count=np.concatenate((self.count, zeros)),
        )

    def only(self, rows: NDArray[np.intp], roster: Roster) -> SlowShape:
        """Return the shape of these rows; `roster` is theirs."""
        return replace(self, roster=roster, total=self.total[rows], count=self.count[rows])

    def follow(self, start_s: float, period_s: float, demand: FloatArray) -> SlowShape:
        """Return the shape after samples (targets, samples); solved anew if a half hour ended among them."""
        starts_s = start_s + period_s * np.arange(demand.shape[1])
        bins = ((starts_s + SAME_MOMENT_S) // BIN_S).astype(int)
        shape, due = self, ABSENT
        for bin_ in np.unique(bins).tolist():
            if bin_ // REFIT_EVERY_BINS != shape.open_bin // REFIT_EVERY_BINS:
                due = bin_ - bin_ % REFIT_EVERY_BINS
            shape = shape.in_bin(bin_).added(demand[:, bins == bin_])
        return shape if due == ABSENT else shape.solved(due)

    def in_bin(self, bin_: int) -> SlowShape:
        """Close the open bin if `bin_` is another."""
        if bin_ == self.open_bin:
            return self
        closed = self.closed
        if self.open_bin != ABSENT:
            with np.errstate(invalid="ignore"):
                closed = (*closed, _Bin(self.open_bin, self.roster, self.total / self.count))
        closed = closed[len(closed) - MOST_BINS :] if len(closed) > MOST_BINS else closed
        zeros = np.zeros(len(self.roster.keys))
        return replace(self, open_bin=bin_, total=zeros, count=zeros, closed=closed)

    def added(self, demand: FloatArray) -> SlowShape:
        """Return the shape with more samples of the open bin, (targets, samples); missing ones (NaN) do not count."""
        seen = np.isfinite(demand)
        total = add_in_order(self.total, np.where(seen, demand, 0.0).T)
        return replace(self, total=total, count=self.count + seen.sum(axis=1))

    def solved(self, due: int) -> SlowShape:
        """Solve for the weights from the bins before `due`, of the last two weeks."""
        bins = tuple(b for b in self.closed if due - MOST_BINS <= b.index < due)
        if len(bins) < LEAST_BINS:
            return self
        return replace(self, weights=_Weights(self.roster, _solve(*_means(bins, self.roster, due), due)))

    def ratio(self, now_s: float, ends_s: FloatArray) -> FloatArray | None:
        """Return expected demand at each step end over that of now, (targets, steps); None while all are 1."""
        if self.weights is None or ends_s[-1] < SHAPE_FROM_S:
            return None
        rows = self.roster.rows_in(self.weights.roster)
        weights = self.weights.values if rows is None else _taken(self.weights.values, rows)
        terms = _terms(np.concatenate(([now_s], now_s + ends_s)), week=True)
        log_ratio = np.zeros((len(weights), len(ends_s)))
        # Term by term, not as a matrix product, whose last bits depend on how many targets there are.
        for k in range(terms.shape[1]):
            log_ratio += weights[:, k, None] * (terms[1:, k] - terms[0, k])
        bound = np.log(MOST_RATIO_PER_HOUR) * np.maximum(ends_s, SHAPE_FROM_S) / 3600.0
        ratio: FloatArray = np.exp(np.clip(log_ratio, -bound, bound))
        ratio[:, ends_s < SHAPE_FROM_S] = 1.0
        return ratio


def _taken(values: FloatArray, rows: NDArray[np.intp]) -> FloatArray:
    """Take rows of `values`, zeros where ABSENT."""
    taken = np.zeros((len(rows), values.shape[1]))
    there = rows != ABSENT
    taken[there] = values[rows[there]]
    return taken


def _means(bins: tuple[_Bin, ...], roster: Roster, due: int) -> tuple[NDArray[np.intp], FloatArray]:
    """Return bin indices up to `due` without holes, and the mean of each target in each, NaN where missing."""
    first = bins[0].index
    means = np.full((len(roster.keys), due - first), np.nan)
    rows = {id(b.roster): roster.rows_in(b.roster) for b in bins}
    for b in bins:
        index = rows[id(b.roster)]
        if index is None:
            means[:, b.index - first] = b.mean
        else:
            there = index != ABSENT
            means[there, b.index - first] = b.mean[index[there]]
    return np.arange(first, due), means


def _solve(bins: NDArray[np.intp], means: FloatArray, due: int) -> FloatArray:
    """Return the weights of all terms, (targets, terms): week terms only for targets with a week of bins."""
    valid = np.isfinite(means) & (means > 0)
    n_bins = valid.sum(axis=1)
    span = means.shape[1] - valid.argmax(axis=1) - valid[:, ::-1].argmax(axis=1)
    middles_s: FloatArray = np.asarray((bins + 0.5) * BIN_S, dtype=np.float64)
    weights = np.zeros((len(means), _terms(middles_s[:1], week=True).shape[1]))
    for week in (False, True):
        terms = _terms(middles_s, week)
        # A trend beside the harmonics keeps a day of growth out of them.
        design = np.column_stack((terms, (middles_s - due * BIN_S) / DAY_S))
        mine = (n_bins >= LEAST_BINS) & ((span >= 7 * DAY_S / BIN_S) == week)
        if mine.any():
            weights[mine, : terms.shape[1]] = _least_squares(design, means[mine], valid[mine])[:, : terms.shape[1]]
    return weights


def _least_squares(design: FloatArray, means: FloatArray, valid: NDArray[np.bool_]) -> FloatArray:
    """Regress the logarithm of `means` (targets, bins) on `design` (bins, terms) where `valid`; (targets, terms).

    One product a target, in a stack: a target's result does not depend on how many are solved with it.
    """
    n_terms = design.shape[1]
    present = valid.astype(np.float64)[:, None, :]
    logs = np.log(np.where(valid, means, 1.0))[:, None, :]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    gram = (present @ products).reshape(-1, n_terms, n_terms)
    gram = gram + RIDGE * present.sum(axis=2)[:, :, None] * np.eye(n_terms)
    solved: FloatArray = np.linalg.solve(gram, (logs @ design)[:, 0, :, None])[..., 0]
    return solved


def _terms(at_s: FloatArray, week: bool) -> FloatArray:
    """Constant and Fourier terms, (moments, terms)."""
    columns = [np.ones(len(at_s))]
    periods = [(DAY_S, HARMONICS_DAY)] + ([(7 * DAY_S, HARMONICS_WEEK)] if week else [])
    for period_s, harmonics in periods:
        for k in range(1, harmonics + 1):
            angle = 2 * np.pi * k * at_s / period_s
            columns += [np.sin(angle), np.cos(angle)]
    return np.column_stack(columns)
