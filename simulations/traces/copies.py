"""Superposing shifted copies of a record: who is in which of its cells, and when that changes.

A cell is a minute of counts or a window of rates. Copy c of a piece of length `span_ns` stands at
time t where the piece stands at (t - shift_c) mod span: time is shifted and wrapped, never
compressed, so that days stay days and bursts keep their length. Copy 0 is never shifted.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from simulations.traces.arrays import IntArray
from simulations.traces.records import NS
from simulations.traces.stream import TrueRate

BoolArray = NDArray[np.bool_]
Seeds = NDArray[np.uint64]

CHUNK_REQUESTS = 65_536
"""Expected requests of a piece: half a megabyte of keys sorts within a core's second-level cache."""
LONGEST_CHUNK_NS = 600 * NS


@dataclass(frozen=True, slots=True)
class Draw:
    """How a record is turned into a stream: everything but the record itself."""

    seed: int
    trace: str
    start_ns: int
    span_ns: int
    scale: int
    thin: float
    shift_s: float

    def seeds(self, purpose: str, count: int, copy: int = 0) -> Seeds:
        """`count` random 64-bit words for one (seed, trace, purpose, copy), apart from all others'."""
        words = [self.seed, zlib.crc32(self.trace.encode()), zlib.crc32(purpose.encode()), copy]
        state: Seeds = np.random.SeedSequence(words).generate_state(count, np.uint64).astype(np.uint64)
        return state

    def shifts_ns(self) -> IntArray:
        """Return the copies' shifts, (scale,), the first 0, the others uniform in [0, shift_s), wrapped."""
        uniform = (self.seeds("shifts", self.scale) >> np.uint64(11)) * 2.0**-53
        shifts = np.rint(uniform * self.shift_s * NS).astype(np.int64) % self.span_ns
        shifts[0] = 0
        return shifts


@dataclass(frozen=True, slots=True)
class Visits:
    """One row for each stay of a copy in a cell, ordered by time; arrays (visits,)."""

    start_ns: IntArray
    end_ns: IntArray
    copy: IntArray
    cell: IntArray


def visits_of(cell_ns: int, draw: Draw) -> Visits:
    """All stays of all copies in the cells of a record, from 0 to `draw.span_ns`.

    Cells are counted in the record, each `cell_ns` long; the piece's first and last may be cut.
    """
    first, last = draw.start_ns // cell_ns, -(-(draw.start_ns + draw.span_ns) // cell_ns)
    cells = np.arange(first, last)
    edges = np.clip(cells * cell_ns - draw.start_ns, 0, None)
    shifts = draw.shifts_ns()
    start = ((edges[None, :] + shifts[:, None]) % draw.span_ns).ravel()
    copy = np.repeat(np.arange(shifts.size), cells.size)
    cell = np.tile(cells, shifts.size)
    # The cell that a copy is in when the replay begins: entered at the other end, and wrapped.
    by_copy = start.reshape(shifts.size, cells.size)
    wrapped = np.flatnonzero(by_copy.min(axis=1) > 0)
    start = np.concatenate((start, np.zeros(wrapped.size, np.int64)))
    copy = np.concatenate((copy, wrapped))
    cell = np.concatenate((cell, cells[by_copy[wrapped].argmax(axis=1)]))
    order = np.lexsort((start, copy))
    start, copy, cell = start[order], copy[order], cell[order]
    end = np.append(start[1:], draw.span_ns)
    end[np.append(copy[1:] != copy[:-1], True)] = draw.span_ns
    order = np.lexsort((copy, start))
    return Visits(start[order], end[order], copy[order], cell[order])


def gaps_s(visits: Visits, known: BoolArray) -> list[tuple[float, float]]:
    """Return merged stretches in which any copy is in a cell that is not `known` (cells,)."""
    missing = ~known[visits.cell]
    gaps: list[tuple[float, float]] = []
    for start_ns, end_ns in zip(visits.start_ns[missing].tolist(), visits.end_ns[missing].tolist(), strict=True):
        if gaps and start_ns / NS <= gaps[-1][1]:
            gaps[-1] = (gaps[-1][0], max(gaps[-1][1], end_ns / NS))
        else:
            gaps.append((start_ns / NS, end_ns / NS))
    return gaps


def summed_steps(visits: Visits, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sum over the copies of `values` (cells, m) as a step function: edges (steps + 1,) in s, (steps, m)."""
    by_copy = np.lexsort((visits.start_ns, visits.copy))
    here = values[visits.cell[by_copy]]
    change = here.copy()
    same = visits.copy[by_copy][1:] == visits.copy[by_copy][:-1]
    change[1:][same] -= here[:-1][same]
    starts, step = np.unique(visits.start_ns[by_copy], return_inverse=True)
    steps = np.zeros((starts.size, values.shape[1]))
    np.add.at(steps, step, change)
    edges_s = np.append(starts, visits.end_ns.max()) / NS
    return edges_s, np.cumsum(steps, axis=0)


def rate_from_sums(edges_s: FloatArray, sums: FloatArray, means: FloatArray, *, stand_in: bool, note: str) -> TrueRate:
    """Return a `TrueRate` from sums (steps, 2 + MOMENTS): rate, rate x dispersion, rate x each token moment.

    `means` (MOMENTS,) are the whole stream's, used where the rate is 0.
    """
    rate = sums[:, 0]
    # A cumulative sum leaves a rest of rounding where all copies are silent.
    some = rate > 1e-9
    rate = np.where(some, rate, 0.0)
    share = sums[:, 1:] / np.where(some, rate, 1.0)[:, None]
    burstiness = np.where(some, np.maximum(share[:, 0], 0.0), 1.0)
    moments = np.where(some[:, None], share[:, 1:], means)
    p, o, pp, oo, po = moments.T
    return TrueRate(edges_s, rate, burstiness, p, o, pp, oo, po, stand_in, note)


def thinned_dispersion(dispersion: FloatArray, thin: float) -> FloatArray:
    """Index of dispersion once each request is kept with probability `thin`: closer to Poisson's 1."""
    return 1.0 + thin * (dispersion - 1.0)
