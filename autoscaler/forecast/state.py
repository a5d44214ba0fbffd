"""The state of a forecast: a frozen value that shares its history with the state before it.

What samples arrive is added as blocks (`extended`); `Fit` is what paths are made from between two refits.
Where the story goes on: `sample_paths.py` decides when a refit is due, `sources.py` reads a state.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.levels import Judged, Levels, follow
from autoscaler.forecast.residuals import Draw, Residuals, draw_residuals, unit_noise
from autoscaler.forecast.series import Aligned, Block, DemandFrame, Roster
from autoscaler.forecast.shape import SlowShape
from autoscaler.forecast.steps import STEP_ENDS_S, Steps
from policies.arrays import FloatArray
from policies.keys import TargetKey


@dataclass(frozen=True, slots=True, eq=False)
class Minute:
    """What is kept of the time between two refits."""

    block: Block
    judged: Judged


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What paths are made from until the next refit.

    `_residuals` and `_noise` are derived from the rest when first asked for, and kept: they are no state.
    Residuals are kept for the last horizon asked for, since those of 1,000 targets take 68 MB.
    """

    at_s: float = -np.inf
    roster: Roster = field(default_factory=Roster)
    rates: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    minutes: tuple[Minute, ...] = ()
    _residuals: dict[tuple[Steps, Draw], Residuals] = field(default_factory=dict)
    _noise: dict[tuple[TargetKey, Draw], NDArray[np.float32]] = field(default_factory=dict)

    def residuals(self, steps: Steps, draw: Draw) -> Residuals:
        """Return the residuals on `steps`, with a row for each target of `roster` that has any."""
        found = self._residuals.get((steps, draw))
        if found is None:
            history = Aligned(tuple(m.block for m in self.minutes), self.roster)
            found = draw_residuals(history, self.rates, steps, draw)
            self._residuals.clear()
            self._residuals[steps, draw] = found
        return found

    def forget(self) -> None:
        """Drop what is derived: it is made again if this fit is ever asked once more."""
        self._residuals.clear()
        self._noise.clear()

    def noise(self, key: TargetKey, draw: Draw) -> NDArray[np.float32]:
        """Return the standard normals of one target, (all steps, paths)."""
        if (key, draw) not in self._noise:
            self._noise[key, draw] = unit_noise(key, draw.seed, self.at_s, (len(STEP_ENDS_S), draw.n_paths))
        return self._noise[key, draw]


@dataclass(frozen=True, slots=True, eq=False)
class PathState:
    """All that the forecaster knows: a value that only `SamplePathForecaster` makes and reads."""

    until_s: float
    """End of the newest sample, -inf before the first."""
    period_s: float
    levels: Levels
    shape: SlowShape
    recent: tuple[Block, ...]
    """Since the last refit."""
    minutes: tuple[Minute, ...]
    """Before it, up to `memory_s`."""
    fit: Fit


def joined_by(state: PathState, frame: DemandFrame) -> PathState:
    """Give a row to each target of `frame` that has none."""
    roster = state.levels.roster.joined_by(frame.demand, frame.start_s)
    if roster is state.levels.roster:
        return state
    return replace(state, levels=state.levels.on(roster), shape=state.shape.on(roster))


def extended(state: PathState, frame: DemandFrame, demand: FloatArray, begin: int, end: int) -> PathState:
    """Add the samples from `begin` to `end` as one more block."""
    if begin == end:
        return state
    start_s, period_s = frame.start_s + begin * frame.period_s, frame.period_s
    levels, path = follow(state.levels, start_s, period_s, demand[:, begin:end])
    block = Block(start_s, period_s, levels.roster, demand[:, begin:end].astype(np.float32), path)
    return replace(state, until_s=block.until_s, levels=levels, recent=(*state.recent, block))
