"""Percentiles from log-spaced histograms.

The overall histograms have 64 bins a decade (3.7% wide), those per bucket of time 32 (7.5%). A
percentile is interpolated within its bin on the log scale, so its error stays well below a bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from simulations.engine.layout import DECADES, LEAST_S


@dataclass(frozen=True, slots=True, eq=False)
class LatencyHistogram:
    """Counts of latencies: below 1e-4 s, in log-spaced bins up to 1e4 s, and from there up."""

    counts: NDArray[np.int64]
    """(2 + 8 * bins per decade,)."""

    @property
    def bins_per_decade(self) -> int:
        """Return how finely the histogram divides each factor of ten."""
        return (len(self.counts) - 2) // DECADES

    @property
    def total(self) -> int:
        """Return how many latencies were counted."""
        return int(self.counts.sum())

    def edges_s(self) -> FloatArray:
        """Edges of the bins between the two outer ones, (len(counts) - 1,), seconds."""
        steps = np.arange(len(self.counts) - 1)
        edges: FloatArray = LEAST_S * 10.0 ** (steps / self.bins_per_decade)
        return edges

    def percentile(self, percent: float) -> float:
        """Return the latency that `percent` (0 to 100) of the requests do not exceed, in seconds.

        Zero where it falls below 1e-4 s, 1e4 s (the last edge) beyond it, NaN without requests.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile lies between 0 and 100, not at {percent}")
        total = self.total
        if total == 0:
            return float("nan")
        reached = np.cumsum(self.counts)
        wanted = percent / 100.0 * total
        index = int(np.searchsorted(reached, max(wanted, 1e-12 * total), side="left"))
        if index == 0:
            return 0.0
        edges = self.edges_s()
        if index >= len(edges):
            return float(edges[-1])
        before = reached[index - 1]
        share = (wanted - before) / self.counts[index]
        return float(edges[index - 1] * (edges[index] / edges[index - 1]) ** share)
