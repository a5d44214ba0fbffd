"""Joint sample paths: a level that follows, a slow shape, and residuals that really happened.

    path = (sqrt(level now x shape ahead) + residual)^2

`levels.py` says how the level follows, `shape.py` how the hour of the day moves it, `residuals.py` where
the residuals come from; a target with too short a record gets noise of its observed dispersion instead.

The state is a frozen value: absorbing samples returns another one that shares all history with it. Every
minute (on the minute, so that it does not depend on how samples were cut into frames) the record's newest
blocks are joined, rates are chosen anew and a `Fit` begins: what residuals are drawn from until the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.levels import Levels, choose_rates, judge
from autoscaler.forecast.residuals import Draw
from autoscaler.forecast.series import ABSENT, SAME_MOMENT_S, Block, DemandFrame, merged
from autoscaler.forecast.shape import SlowShape
from autoscaler.forecast.sources import Sources
from autoscaler.forecast.state import Fit, Minute, PathState, extended, joined_by
from autoscaler.forecast.steps import step_ends, step_samples
from policies.arrays import FloatArray
from policies.keys import TargetKey
from policies.paths import DemandPaths

CHUNK = 32
"""Targets at a time when paths are put together: their paths stay in a core's cache between operations."""


@dataclass(frozen=True, slots=True)
class PathConfig:
    """`memory_s` bounds what residuals are drawn from, `half_life_s` prefers the recent ones."""

    n_paths: int = 1000
    memory_s: float = 3600.0
    half_life_s: float = 1200.0
    refit_every_s: float = 60.0
    least_samples: int = 10
    """Valid samples below which a target counts as unknown."""
    stale_after_s: float = 120.0
    """Age of the newest valid sample beyond which a target counts as unknown."""
    judged_horizon_s: float = 12.0
    """Smoothing is judged by the error over this horizon: where wakes and reclaims are decided."""


class SamplePathForecaster:
    """Implements the `Forecaster` port. Holds settings and a seed, and nothing that changes."""

    def __init__(self, seed: int, n_paths: int = 1000, config: PathConfig | None = None) -> None:
        self._config = config or PathConfig(n_paths)
        self._seed = seed

    def initial(self) -> PathState:
        """Return the state that knows nothing, of no target."""
        return PathState(-np.inf, np.nan, Levels.empty(), SlowShape.empty(), (), (), Fit())

    def bootstrap(self, history: DemandFrame) -> PathState:
        """Return the state after `history`, the same as if its samples had come one by one."""
        return self.absorb(self.initial(), history)

    def absorb(self, state: PathState, frame: DemandFrame) -> PathState:
        """Return `state` and the samples of `frame` that end after `state.until_s`.

        A gap (NaN, an absent target, time between frames) leaves a level where it was. Raises ValueError
        if the sample period differs from that of the state: a record of another period needs `bootstrap`.
        """
        fresh = frame.after(state.until_s, self._samples(self._config.memory_s, frame.period_s))
        if not fresh.n_samples:
            return state
        if not np.isnan(state.period_s) and state.period_s != fresh.period_s:
            raise ValueError(f"samples of {fresh.period_s} s after samples of {state.period_s} s; bootstrap anew")
        state = joined_by(replace(state, period_s=fresh.period_s), fresh)
        demand = fresh.matrix(state.levels.roster.keys)
        state = replace(state, shape=state.shape.follow(fresh.start_s, fresh.period_s, demand))
        begin, ends = 0, self._refits(fresh)
        for end in ends:
            state = self._minute_closed(extended(state, fresh, demand, begin, end))
            begin = end
        if ends:
            state = self._refitted(state, fresh.start_s + ends[-1] * fresh.period_s)
        return extended(state, fresh, demand, begin, fresh.n_samples)

    def retain(self, state: PathState, keys: frozenset[TargetKey]) -> PathState:
        """Return `state` without the targets that are not in `keys`; nothing of the others changes."""
        rows = state.levels.roster.kept(keys)
        if len(rows) == len(state.levels.roster.keys):
            return state
        levels = state.levels.only(rows)
        return replace(state, levels=levels, shape=state.shape.only(rows, levels.roster))

    def paths(self, state: PathState, keys: tuple[TargetKey, ...], now_s: float, horizon_s: float) -> DemandPaths:
        """Return joint paths of `keys` from `now_s`, single precision, up to the first step at or past the horizon.

        A target with too little or stale data, or none, is not in `known`. A pure read of `state`.
        """
        ends_s = step_ends(horizon_s)
        period_s = 1.0 if np.isnan(state.period_s) else state.period_s
        steps = step_samples(ends_s, period_s)
        source = Sources(state, keys, steps, self._draw(state, period_s))
        ahead = self._root_ahead(state, source, now_s, ends_s)
        # Memory order (targets, steps, paths): policies sort the paths of one step, which then lie together.
        out = np.empty((len(keys), len(steps), self._config.n_paths), dtype=np.float32)
        for begin in range(0, len(keys), CHUNK):
            chunk = slice(begin, min(begin + CHUNK, len(keys)))
            part = out[chunk]
            source.fill(part, chunk)
            part += ahead[chunk, :, None]
            np.maximum(part, 0.0, out=part)
            np.square(part, out=part)
        return DemandPaths(keys, ends_s, out.transpose(0, 2, 1), self._known(state, keys, now_s), "level+residuals")

    def _root_ahead(self, state: PathState, source: Sources, now_s: float, ends_s: FloatArray) -> NDArray[np.float32]:
        """Return the square root of level times shape, (keys, steps); zero for a target without a level."""
        smoothed = state.levels.smoothed
        there = source.rows != ABSENT
        level = np.zeros(len(source.rows))
        level[there] = np.nan_to_num(smoothed[source.rates[there], source.rows[there]])
        ahead = np.repeat(level[:, None], len(ends_s), axis=1)
        ratio = state.shape.ratio(now_s, ends_s)
        if ratio is not None:
            ahead[there] *= ratio[source.rows[there]]
        return np.sqrt(ahead, dtype=np.float32)

    def _known(self, state: PathState, keys: tuple[TargetKey, ...], now_s: float) -> frozenset[TargetKey]:
        levels = state.levels
        fresh = now_s - levels.last_valid_s <= self._config.stale_after_s
        known = (levels.n_valid >= self._config.least_samples) & fresh
        return frozenset(levels.roster.keys[i] for i in known.nonzero()[0]) & frozenset(keys)

    def _draw(self, state: PathState, period_s: float) -> Draw:
        memory = self._samples(self._config.memory_s, period_s)
        return Draw(self._seed, state.fit.at_s, self._config.n_paths, memory, self._config.half_life_s / period_s)

    def _refits(self, frame: DemandFrame) -> list[int]:
        """Return after how many samples of `frame` a minute is over: after each that ends in another one."""
        edges_s = frame.start_s + frame.period_s * np.arange(frame.n_samples + 1)
        minute = (edges_s + SAME_MOMENT_S) // self._config.refit_every_s
        found: list[int] = ((minute[1:] != minute[:-1]).nonzero()[0] + 1).tolist()
        return found

    def _minute_closed(self, state: PathState) -> PathState:
        """Join the blocks since the last refit to one and judge what they complete; forget what is too old."""
        block = merged(state.recent, state.levels.roster)
        ahead = max(self._samples(self._config.judged_horizon_s, block.period_s), 1)
        minutes = tuple(m for m in state.minutes if m.block.until_s > block.until_s - self._config.memory_s)
        before: list[Block] = []
        for minute in reversed(minutes):
            if sum(b.n_samples for b in before) >= ahead:
                break
            before.insert(0, minute.block)
        judged = judge((*before, block), state.levels.roster, ahead)
        return replace(state, recent=(), minutes=(*minutes, Minute(block, judged)))

    def _refitted(self, state: PathState, at_s: float) -> PathState:
        roster = state.levels.roster
        rates = choose_rates(tuple(m.judged for m in state.minutes), roster)
        # The old state lives on until its pass has ended; its residuals need not, beside those of the new fit.
        state.fit.forget()
        return replace(state, fit=Fit(at_s, roster, rates, state.minutes))

    @staticmethod
    def _samples(span_s: float, period_s: float) -> int:
        return round(span_s / period_s)
