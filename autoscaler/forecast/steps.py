"""The steps of a sample path: one second each at first, then wider and wider, up to six minutes.

Decisions of the next seconds need single seconds; what is farther away needs only its mean.
"""

from __future__ import annotations

import numpy as np

from policies.arrays import FloatArray

Steps = tuple[tuple[int, int], ...]
"""Steps in samples after a moment: (first, past the last); an empty one takes over the step before it."""
STEP_ENDS_S = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0)


def step_ends(horizon_s: float) -> FloatArray:
    """Return the step ends up to the first at or past `horizon_s`, in seconds, (steps,)."""
    ends = np.array(STEP_ENDS_S)
    return ends[: min(int(np.searchsorted(ends, horizon_s)) + 1, len(ends))]


def step_samples(ends_s: FloatArray, period_s: float) -> Steps:
    """Return the steps that end at `ends_s` in samples of `period_s`; one shorter than a sample is empty."""
    ends = np.maximum(np.round(ends_s / period_s).astype(int), 1).tolist()
    return tuple(zip([0, *ends[:-1]], ends, strict=True))
