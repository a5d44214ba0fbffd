"""The slow shape of demand: what the hour, the weekday and the trend of the day make of it.

The fast level (`levels.py`) knows the last quarter of an hour; this knows weeks. It works on the
logarithm of five-minute means and says by which factor demand is expected to change between two moments.
Three parts:

- a *season*, the best on the last day of: none; yesterday again; last week again (seasonal naive);
  Fourier terms of day and week by least squares (dynamic harmonic regression; Hyndman and Athanasopoulos,
  Forecasting: Principles and Practice, 7.4 and 10.5);
- a *remainder*, what the season leaves: an exponentially smoothed level and damped trend (Gardner and
  McKenzie, Management Science 31, 1985; statsmodels), fitted to the last day;
- the *bounds*: no shape may promise more than MOST_PER_HOUR a factor of change per hour.

Nothing is claimed before three hours of record, nothing of the day before 25 hours, nothing of the week
before eight days. All targets are fitted every half hour, in some tens of milliseconds each.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import statsmodels.api as sm
from statsmodels.tsa.holtwinters import ExponentialSmoothing

from autoscaler.forecast.bins import BIN_S, FiveMinuteBins
from policies.types import FloatArray

DAY_BINS = 288
WEEK_BINS = 7 * DAY_BINS
LEAST_BINS = 36
LEAST_DAY_BINS = DAY_BINS + 12
LEAST_WEEK_BINS = WEEK_BINS + DAY_BINS
HARMONICS_DAY = 8
HARMONICS_WEEK = (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13)
"""Of the week up to half a day, less its seventh, which is the day's first: weekends have edges."""
MOST_DAMPING, SEASON_DAMPING = 0.98, 0.9
"""Share of the trend that may outlast a bin: four hours in all, or 50 minutes where a season explains the rest."""
LEAST_LEFT = 0.05
"""At least this share of a deviation is left after six hours."""
JUDGED_LEADS_BINS = (6, 72)
"""Seasons are judged by the changes they foretell half an hour and six hours ahead."""
SMOOTHING_BINS = 5
"""A seasonal naive value is a mean over 25 minutes: one bin's noise is no season."""
MOST_PER_HOUR = 6.0
SHAPED_FROM_S = 40.0
"""Nearer than this is the fast level's alone: no season moves in half a minute."""
FLOOR_SHARE = 0.05
"""Added to demand before the logarithm, as a share of its mean: quiet bins must not weigh endlessly."""


@dataclass(frozen=True, slots=True)
class FittedShape:
    """One target's shape. Bins are absolute numbers; values are log(demand + floor)."""

    floor: float
    season: str
    first_bin: int
    values: FloatArray
    """The smoothed record, for the seasonal naive kinds."""
    coefficients: FloatArray
    weekly: bool
    base: float
    """What the remainder returns to."""
    level: float
    trend: float
    damping: float
    """Remainder's level and trend per bin at `end_bin`, and what is left of the trend after each bin."""
    memory: float
    """What is left of the remainder's level after each bin: a deviation from the season passes."""
    end_bin: int

    def seasonal(self, bins: FloatArray) -> FloatArray:
        """The season at fractional absolute bin numbers."""
        if self.season == "harmonic":
            value: FloatArray = fourier(bins, self.weekly) @ self.coefficients
            return value
        if self.season == "none":
            return np.zeros(len(bins))
        lag = DAY_BINS if self.season == "day" else WEEK_BINS
        back = bins - lag * np.ceil(np.maximum(bins - self.end_bin + 1, 1) / lag)
        again: FloatArray = np.interp(back, self.first_bin + 0.5 + np.arange(len(self.values)), self.values)
        return again

    def remainder(self, bins: FloatArray) -> FloatArray:
        """The damped trend at fractional absolute bin numbers from the end of the record on."""
        ahead = np.maximum(bins - self.end_bin, 0.0)
        travelled = self.damping * (1.0 - self.damping**ahead) / (1.0 - self.damping)
        value: FloatArray = self.base + self.level * self.memory**ahead + self.trend * travelled
        return value

    def log_demand(self, at_s: FloatArray) -> FloatArray:
        bins = np.asarray(at_s) / BIN_S
        return self.seasonal(bins) + self.remainder(bins)

    def demand(self, at_s: FloatArray) -> FloatArray:
        """Expected demand in replicas at the given moments, (moments,)."""
        return np.maximum(np.exp(self.log_demand(at_s)) - self.floor, 0.0)


class SlowShape:
    """Five-minute means of all targets, and what they teach once there are enough."""

    def __init__(self, n_targets: int, refit_every_s: float = 1800.0) -> None:
        self._n = n_targets
        self._refit_every_s = refit_every_s
        self._bins = FiveMinuteBins(n_targets)
        self._fitted_s = -np.inf
        self.fitted: tuple[FittedShape | None, ...] = (None,) * n_targets

    def append(self, start_s: float, period_s: float, demand: FloatArray) -> None:
        """Add samples; fitting is `fit_if_due`'s."""
        self._bins.append(start_s, period_s, demand)

    def fit_if_due(self, now_s: float) -> None:
        """Fit all targets anew if the last fit is old and there is enough to fit."""
        if now_s - self._fitted_s < self._refit_every_s or self._bins.means.shape[1] < LEAST_BINS:
            return
        self._fitted_s = now_s
        self.fitted = tuple(fit_shape(means, self._bins.open_bin) for means in self._bins.means)

    def ratio(self, now_s: float, ahead_s: FloatArray) -> FloatArray:
        """Expected demand at now + ahead over that of now, (targets, aheads); 1 while unknown or near."""
        ratio = np.ones((self._n, len(ahead_s)))
        bound = np.log(MOST_PER_HOUR) * ahead_s / 3600.0
        for i, fitted in enumerate(self.fitted):
            if fitted is not None:
                value = fitted.log_demand(now_s + np.concatenate(([0.0], ahead_s)))
                ratio[i] = np.exp(np.clip(value[1:] - value[0], -bound, bound))
        ratio[:, ahead_s < SHAPED_FROM_S] = 1.0
        return ratio

    def expected(self, at_s: FloatArray) -> FloatArray:
        """Expected demand, in replicas, hours or days ahead: (targets, moments); NaN while unknown."""
        rows = [np.full(len(at_s), np.nan) if f is None else f.demand(at_s) for f in self.fitted]
        return np.array(rows)


def fit_shape(means: FloatArray, open_bin: int) -> FittedShape | None:
    """Fit one target's complete bins, of which the last is `open_bin - 1`; None if too little is known."""
    known = np.isfinite(means)
    if known.sum() < LEAST_BINS or not means[known].max() > 0:
        return None
    first = int(known.argmax())
    means = means[first:]
    floor = FLOOR_SHARE * float(np.nanmean(means))
    values = np.log(_filled(means) + floor)
    first_bin = open_bin - len(values)
    season, coefficients, weekly = _season(values, np.isfinite(means), first_bin)
    season_only = FittedShape(
        floor, season, first_bin, _smoothed(values), coefficients, weekly, 0.0, 0.0, 0.0, 0.9, 1.0, open_bin
    )
    bins = first_bin + 0.5 + np.arange(max(len(values) - WEEK_BINS, 0), len(values), dtype=np.float64)
    left = values[-len(bins) :] - _seasonal_of_record(season_only, bins)
    level, trend, damping = _damped_trend(left[-DAY_BINS:], MOST_DAMPING if season == "none" else SEASON_DAMPING)
    base = 0.0 if season == "none" else float(left.mean())
    memory = 1.0 if season == "none" else _memory(left - base)
    return replace(season_only, base=base, level=level - base, trend=trend, damping=damping, memory=memory)


def fourier(bins: FloatArray, weekly: bool) -> FloatArray:
    """Fourier terms of day and week at absolute bin numbers, (bins, terms)."""
    cycles = [k / DAY_BINS for k in range(1, HARMONICS_DAY + 1)]
    if weekly:
        cycles += [k / WEEK_BINS for k in HARMONICS_WEEK]
    angles = 2 * np.pi * np.array(cycles)
    phase = np.asarray(bins)[:, None] * angles[None, :]
    return np.concatenate((np.sin(phase), np.cos(phase)), axis=1)


def _season(values: FloatArray, known: FloatArray, first_bin: int) -> tuple[str, FloatArray, bool]:
    """The season that foretold the changes of the last day best, fitted to all."""
    if len(values) < LEAST_DAY_BINS:
        return "none", np.empty(0), False
    weekly = len(values) >= LEAST_WEEK_BINS
    bins = first_bin + 0.5 + np.arange(len(values), dtype=np.float64)
    # The last day is judged by what was known before it, if that is a day at least.
    cut = len(values) - min(DAY_BINS, len(values) - DAY_BINS)
    losses = {"none": _loss(np.zeros(len(values)), values, cut)}
    smooth = _smoothed(values)
    for name, lag in (("day", DAY_BINS), ("week", WEEK_BINS)):
        if len(values) > lag + LEAST_BINS and (name == "day" or weekly):
            lagged = np.concatenate((np.full(lag, smooth[0]), smooth[:-lag]))
            losses[name] = _loss(lagged, values, max(cut, lag))
    if cut >= DAY_BINS:
        early = _harmonics(values[:cut], bins[:cut], known[:cut], weekly and cut >= WEEK_BINS)
        fitted = fourier(bins, weekly and cut >= WEEK_BINS) @ early
        losses["harmonic"] = _loss(fitted, values, cut)
    best = min(losses, key=lambda name: losses[name])
    if best != "harmonic":
        return best, np.empty(0), False
    return best, _harmonics(values, bins, known, weekly), weekly


def _harmonics(values: FloatArray, bins: FloatArray, known: FloatArray, weekly: bool) -> FloatArray:
    """Least squares with a constant and a trend beside the Fourier terms, so that growth stays out of them."""
    since = (bins - bins[0]) / DAY_BINS
    design = np.column_stack((fourier(bins, weekly), np.ones(len(bins)), since))[known]
    params: FloatArray = np.asarray(sm.OLS(values[known], design).fit().params)[:-2]
    return params


def _loss(season: FloatArray, values: FloatArray, cut: int) -> float:
    """Squared error of the changes over the judged leads from `cut` on, each relative to no season's."""
    total = 0.0
    for lead in JUDGED_LEADS_BINS:
        if len(values) - lead > cut:
            came = values[cut + lead :] - values[cut:-lead]
            told = season[cut + lead :] - season[cut:-lead]
            total += float(np.mean((came - told) ** 2)) / max(float(np.mean(came**2)), 1e-12)
    return total


def _damped_trend(left: FloatArray, most: float) -> tuple[float, float, float]:
    """Level, trend per bin and damping of the remainder at its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on convergence: a poor optimum is still a smoothing
        fit = ExponentialSmoothing(left, trend="add", damped_trend=True, initialization_method="estimated").fit()
    level, trend, damping = float(fit.level[-1]), float(fit.trend[-1]), float(fit.params["damping_trend"])
    if not np.isfinite([level, trend, damping]).all():
        return float(left[-1]), 0.0, 0.9
    return level, trend, min(max(damping, 0.0), most)


def _memory(deviation: FloatArray) -> float:
    """Share of a deviation that is left after one bin, from what is left of it six hours later."""
    lag = JUDGED_LEADS_BINS[-1]
    before, after = deviation[:-lag], deviation[lag:]
    power = float(before @ before)
    left = float(before @ after) / power if power > 0 else 0.0
    return float(min(max(left, LEAST_LEFT), 1.0) ** (1.0 / lag))


def _seasonal_of_record(shape: FittedShape, bins: FloatArray) -> FloatArray:
    """The season within the record, where a naive one must look one period back from each bin."""
    if shape.season in ("none", "harmonic"):
        return shape.seasonal(bins)
    lag = DAY_BINS if shape.season == "day" else WEEK_BINS
    return np.interp(bins - lag, shape.first_bin + 0.5 + np.arange(len(shape.values)), shape.values)


def _filled(means: FloatArray) -> FloatArray:
    """Gaps bridged by straight lines, so that lags stay whole."""
    known = np.isfinite(means)
    at = np.arange(len(means))
    return np.interp(at, at[known], means[known])


def _smoothed(values: FloatArray) -> FloatArray:
    padded = np.pad(values, SMOOTHING_BINS // 2, mode="edge")
    return np.convolve(padded, np.full(SMOOTHING_BINS, 1.0 / SMOOTHING_BINS), mode="valid")
