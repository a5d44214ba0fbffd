"""Where each target's residuals come from: a row of the fit, or assumed noise of its own."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.levels import FIRST_RATE
from autoscaler.forecast.residuals import Draw, noise_scale
from autoscaler.forecast.series import ABSENT
from autoscaler.forecast.state import PathState
from autoscaler.forecast.steps import Steps
from policies.keys import TargetKey

T = TypeVar("T", bound=np.generic)


class Sources:
    """Where each key's residuals come from: a row of the fit's residuals, or assumed noise of its own."""

    def __init__(self, state: PathState, keys: tuple[TargetKey, ...], steps: Steps, draw: Draw) -> None:
        self._fit, self._keys, self._steps, self._draw = state.fit, keys, steps, draw
        roster = state.levels.roster
        self.rows = rows_of(keys, roster.keys)
        """Row of each key in the state, ABSENT for one that it does not have."""
        in_fit = roster.rows_in(state.fit.roster)
        fitted = self.rows if in_fit is None else through(in_fit, self.rows)
        self.rates = through(state.fit.rates, fitted, FIRST_RATE)
        residuals = state.fit.residuals(steps, draw)
        self._values = residuals.values
        self._source = through(residuals.row, fitted)
        self._scale = through(state.levels.dispersion(), self.rows, 1.0)

    def fill(self, out: NDArray[np.float32], chunk: slice) -> None:
        """Write the residuals of the keys in `chunk` to `out` (keys, steps, paths)."""
        source = self._source[chunk]
        with_residuals = source != ABSENT
        if with_residuals.all():
            np.take(self._values, source, axis=0, out=out, mode="clip")
            return
        out[with_residuals] = self._values[source[with_residuals]]
        scale = noise_scale(self._scale[chunk], self._steps).astype(np.float32)
        for i in (~with_residuals).nonzero()[0]:
            noise = self._fit.noise(self._keys[chunk.start + i], self._draw)
            np.multiply(noise[: len(self._steps)], scale[i][:, None], out=out[i])


def rows_of(keys: tuple[TargetKey, ...], known: tuple[TargetKey, ...]) -> NDArray[np.intp]:
    """Return the row of each of `keys` among `known`, (keys,), ABSENT for one that is not there."""
    if keys == known:
        return np.arange(len(keys))
    row = {key: i for i, key in enumerate(known)}
    return np.fromiter((row.get(key, ABSENT) for key in keys), dtype=np.intp, count=len(keys))


def through(values: NDArray[T], rows: NDArray[np.intp], absent: float = ABSENT) -> NDArray[T]:
    """Return `values[rows]`, `absent` where a row is ABSENT."""
    taken = np.full(len(rows), absent, dtype=values.dtype)
    there = rows != ABSENT
    taken[there] = values[rows[there]]
    return taken
