"""The grid of forecast steps: fine where wakes are decided, coarse where nodes are.

A forecast says what the *mean* demand within each step will be. Steps widen with distance because a
burst of one second matters to a wake in one second and to nothing that is decided minutes ahead. The
story goes on in `record.py`, which says what demand within each step really was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.types import FloatArray

STEP_ENDS_S = (
    1.0,
    2.0,
    3.0,
    4.0,
    6.0,
    8.0,
    12.0,
    16.0,
    24.0,
    32.0,
    48.0,
    64.0,
    96.0,
    128.0,
    192.0,
    256.0,
    384.0,
)


@dataclass(frozen=True, slots=True)
class StepGrid:
    """Steps after an origin, in seconds and in samples: step h is the samples [begin[h], end[h])."""

    ends_s: FloatArray
    begin: NDArray[np.int64]
    end: NDArray[np.int64]

    @property
    def reach(self) -> int:
        """Samples from the origin to the end of the last step."""
        return int(self.end[-1])

    @property
    def widths(self) -> NDArray[np.int64]:
        """Samples in each step, at least one."""
        return self.end - self.begin

    def upto(self, horizon_s: float) -> int:
        """Number of steps up to the first end at or past the horizon, or all there are."""
        return len(step_ends(horizon_s, self.ends_s))


def step_grid(period_s: float, ends_s: tuple[float, ...] = STEP_ENDS_S) -> StepGrid:
    """The grid for samples of `period_s`: a step shorter than a sample is the sample that holds it."""
    ends = np.array(ends_s)
    end = np.maximum(np.ceil(ends / period_s - 1e-9).astype(np.int64), 1)
    starts = np.concatenate(([0.0], ends[:-1]))
    begin = np.minimum(np.floor(starts / period_s + 1e-9).astype(np.int64), end - 1)
    return StepGrid(ends, begin, end)


def step_ends(horizon_s: float, ends_s: FloatArray | tuple[float, ...] = STEP_ENDS_S) -> FloatArray:
    """The ends of the steps up to the first at or past the horizon, or all there are, in seconds."""
    ends = np.asarray(ends_s)
    return ends[: int(np.searchsorted(ends, horizon_s)) + 1]
