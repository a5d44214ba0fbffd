"""Requests from a record of single arrivals: replayed at their recorded moments.

Copies are the same requests at shifted moments (`copies.py`); thinning keeps each request of each
copy with its own coin. The record's rows are in memory once, 16 bytes each; the copies are gathered
piece by piece.

A clock that ticks every few seconds (Mooncake: 3 s, ten requests on one stamp) would replay as
volleys that no user ever sent, so such requests are spread uniformly over their tick.
"""

from __future__ import annotations

import numpy as np

from policies.arrays import FloatArray
from simulations.traces.arrays import IntArray
from simulations.traces.copies import CHUNK_REQUESTS, LONGEST_CHUNK_NS, Draw, rate_from_sums, thinned_dispersion
from simulations.traces.kernels import gather_copies, tokens_by_row
from simulations.traces.records import NS, ArrivalRecord
from simulations.traces.stream import Chunk, TrueRate
from simulations.traces.tokens import row_moments

BIN_S = 4.0
BINS_EACH_SIDE = 7
"""The moving average covers 7 + 1 + 7 bins of 4 s: 60 s, centred."""
KEY_BITS = 62


class RecordedArrivals:
    """A `ChunkSource` over one piece of an `ArrivalRecord`."""

    def __init__(self, record: ArrivalRecord, draw: Draw) -> None:
        times_ns = _spread(record, draw)
        first, last = np.searchsorted(times_ns, (draw.start_ns, draw.start_ns + draw.span_ns))
        self._times_ns: IntArray = times_ns[first:last] - draw.start_ns
        self._prompts = record.prompts[first:last]
        self._outputs = record.outputs[first:last]
        self._draw = draw
        self._shifts_ns = draw.shifts_ns()
        self._copy_keys = draw.seeds("thinning", draw.scale)
        self._row_bits = max(int(self._times_ns.size).bit_length(), 1)
        self._now_ns = 0
        self._keys = np.empty(2 * CHUNK_REQUESTS, np.int64)

    @property
    def duration_s(self) -> float:
        """Return the stream's length in seconds."""
        return self._draw.span_ns / NS

    @property
    def expected(self) -> float:
        """Return how many requests the stream is expected to hold."""
        return self._times_ns.size * self._draw.scale * self._draw.thin

    def next_chunk(self) -> Chunk:
        """Return the next piece."""
        start_ns, self._now_ns = self._now_ns, min(self._now_ns + self._chunk_ns(), self._draw.span_ns)
        filled = copy = 0
        while copy < self._shifts_ns.size:
            filled, copy = gather_copies(
                self._keys, filled, copy, start_ns, self._now_ns, self._draw.span_ns, self._times_ns,
                self._shifts_ns, self._row_bits, self._copy_keys, self._draw.thin,
            )  # fmt: skip
            if copy < self._shifts_ns.size:
                self._keys = np.concatenate((self._keys, np.empty_like(self._keys)))
        keys = self._keys[:filled]
        keys.sort()
        times_s, prompts, outputs = np.empty(filled), np.empty(filled, np.int32), np.empty(filled, np.int32)
        tokens_by_row(
            keys, self._row_bits, start_ns, 0, np.uint64(0), self._prompts, self._outputs, times_s, prompts, outputs
        )
        return Chunk(times_s, prompts, outputs, self._now_ns / NS)

    def _chunk_ns(self) -> int:
        per_ns = max(self.expected, 1.0) / self._draw.span_ns
        return max(1, min(int(CHUNK_REQUESTS / per_ns), LONGEST_CHUNK_NS, 1 << (KEY_BITS - self._row_bits)))

    def gaps_s(self) -> list[tuple[float, float]]:
        """None: a record of arrivals does not tell a silence from a hole."""
        return []

    def mean_tokens(self) -> tuple[float, float]:
        """Of the piece's requests; 0, 0 for a piece without any."""
        if self._times_ns.size == 0:
            return 0.0, 0.0
        return float(self._prompts.mean()), float(self._outputs.mean())

    def true_rate(self) -> TrueRate:
        """Return a centred moving average of 60 s, for want of the law that the requests came from."""
        moments = row_moments(self._prompts, self._outputs)
        bins = max(1, round(self.duration_s / BIN_S))
        edges_s = np.linspace(0.0, self.duration_s, bins + 1)
        weights = np.column_stack((np.ones(len(moments)), moments))
        binned = np.zeros((bins, weights.shape[1]))
        for shift_ns in self._shifts_ns:
            at_s = (self._times_ns + shift_ns) % self._draw.span_ns / NS
            place = np.minimum((at_s / edges_s[1]).astype(np.int64), bins - 1)
            for column, values in enumerate(weights.T):
                binned[:, column] += np.bincount(place, values, minlength=bins)
        smooth = _centred_mean(binned) / edges_s[1] * self._draw.thin
        dispersion = thinned_dispersion(np.array(_dispersion(binned[:, 0])), self._draw.thin)
        sums = np.column_stack((smooth[:, :1], smooth[:, :1] * dispersion, smooth[:, 1:]))
        means = moments.mean(axis=0) if len(moments) else np.zeros(moments.shape[1])
        note = (
            "the true rate of recorded arrivals is unknown: a centred moving average of 60 s stands in for it, "
            "with the dispersion of the counts in 4 s about it"
        )
        return rate_from_sums(edges_s, sums, means, stand_in=True, note=note)


def _spread(record: ArrivalRecord, draw: Draw) -> IntArray:
    """Return the record's times, spread over their ticks where its clock ticks."""
    if record.tick_ns == 0:
        return record.times_ns
    stamps, stamp = np.unique(record.times_ns, return_inverse=True)
    room = np.minimum(np.diff(stamps, append=stamps[-1] + record.tick_ns), record.tick_ns)
    random = np.random.default_rng(int(draw.seeds("ticks", 1)[0]))
    return np.sort(record.times_ns + (random.random(stamp.size) * room[stamp]).astype(np.int64))


def _centred_mean(binned: FloatArray) -> FloatArray:
    """Return the moving average over bins (bins, m); at the ends over the bins that there are."""
    total = np.vstack((np.zeros(binned.shape[1]), np.cumsum(binned, axis=0)))
    place = np.arange(len(binned))
    low, high = np.maximum(place - BINS_EACH_SIDE, 0), np.minimum(place + BINS_EACH_SIDE + 1, len(binned))
    mean: FloatArray = (total[high] - total[low]) / (high - low)[:, None]
    return mean


def _dispersion(counts: FloatArray) -> float:
    """Variance of the counts about their moving average over their mean; 1 where it cannot be told."""
    width = 2 * BINS_EACH_SIDE + 1
    if counts.sum() == 0 or counts.size <= width:
        return 1.0
    rest = counts - _centred_mean(counts[:, None])[:, 0]
    # The average contains the bin itself, which takes 1/width of an independent count's variance.
    return float((rest**2).sum() / counts.sum() / (1.0 - 1.0 / width))
