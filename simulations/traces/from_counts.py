"""Requests from counts by minute: each minute's requests at independent uniform moments.

A Poisson process, given that it has n events in an interval, has them at n independent uniform times
(Kingman, "Poisson Processes", 1993): so this is Poisson within a minute, and exactly the record's
count over it. A minute cut by a piece's border, a wrap or a thinning keeps a binomial share. Token
lengths are rows of a record of arrivals, each equally likely: counts tell nothing of tokens.
"""

from __future__ import annotations

import numpy as np

from simulations.traces.arrays import IntArray
from simulations.traces.copies import (
    CHUNK_REQUESTS,
    LONGEST_CHUNK_NS,
    Draw,
    gaps_s,
    rate_from_sums,
    summed_steps,
    visits_of,
)
from simulations.traces.kernels import tokens_by_row, uniform_keys
from simulations.traces.records import NS, ArrivalRecord, CountRecord
from simulations.traces.stream import Chunk, TrueRate
from simulations.traces.tokens import row_moments

MINUTE_NS = 60 * NS


class CountedArrivals:
    """A `ChunkSource` over one piece of a `CountRecord`."""

    def __init__(self, record: CountRecord, tokens: ArrivalRecord, draw: Draw) -> None:
        self._draw = draw
        self._known = record.requests >= 0
        self._requests = np.maximum(record.requests, 0)
        self._tokens = tokens
        self._visits = visits_of(MINUTE_NS, draw)
        self._random = np.random.default_rng(int(draw.seeds("counts", 1)[0]))
        self._keys = draw.seeds("requests", 2)
        self._made = 0
        self._now_ns = 0
        self._next_visit = 0
        self._left: IntArray = np.zeros(draw.scale, np.int64)
        """Requests that each copy still has to make in its present minute, (copies,)."""
        self._until_ns: IntArray = np.zeros(draw.scale, np.int64)

    @property
    def duration_s(self) -> float:
        """Return the stream's length in seconds."""
        return self._draw.span_ns / NS

    @property
    def expected(self) -> float:
        """Return how many requests the stream is expected to hold."""
        visits = self._visits
        share = (visits.end_ns - visits.start_ns) / MINUTE_NS
        return float((self._requests[visits.cell] * share).sum() * self._draw.thin)

    def next_chunk(self) -> Chunk:
        """Return the next piece."""
        start_ns = self._now_ns
        self._enter_minutes(start_ns)
        stay_ns = self._until_ns - start_ns
        border_ns = int(stay_ns.min())
        per_ns = float((self._left / stay_ns).sum())
        length_ns = max(1, min(border_ns, LONGEST_CHUNK_NS, int(CHUNK_REQUESTS / max(per_ns, 1e-12))))
        now = self._random.binomial(self._left, np.minimum(length_ns / stay_ns, 1.0))
        self._left = self._left - now
        self._now_ns = start_ns + length_ns
        return self._chunk(int(now.sum()), start_ns, length_ns)

    def _enter_minutes(self, now_ns: int) -> None:
        visits = self._visits
        last = int(np.searchsorted(visits.start_ns, now_ns, side="right"))
        entered = slice(self._next_visit, last)
        self._next_visit = last
        stay_ns = visits.end_ns[entered] - visits.start_ns[entered]
        share = np.minimum(stay_ns / MINUTE_NS * self._draw.thin, 1.0)
        made = self._random.binomial(self._requests[visits.cell[entered]], share)
        self._left[visits.copy[entered]] = made
        self._until_ns[visits.copy[entered]] = visits.end_ns[entered]

    def _chunk(self, count: int, start_ns: int, length_ns: int) -> Chunk:
        keys = np.empty(count, np.int64)
        uniform_keys(keys, self._made, self._keys[0], length_ns)
        keys.sort()
        times_s, prompts, outputs = np.empty(count), np.empty(count, np.int32), np.empty(count, np.int32)
        tokens_by_row(
            keys, 0, start_ns, self._made, self._keys[1], self._tokens.prompts, self._tokens.outputs,
            times_s, prompts, outputs,
        )  # fmt: skip
        self._made += count
        return Chunk(times_s, prompts, outputs, self._now_ns / NS)

    def gaps_s(self) -> list[tuple[float, float]]:
        """Return the stretches without a record, ascending, in seconds."""
        return gaps_s(self._visits, self._known)

    def mean_tokens(self) -> tuple[float, float]:
        """Return mean prompt and output tokens of a request."""
        return float(self._tokens.prompts.mean()), float(self._tokens.outputs.mean())

    def true_rate(self) -> TrueRate:
        """Return the minute's count over 60 s; Poisson within the minute, so the dispersion is 1."""
        rate = self._requests / 60.0 * self._draw.thin
        means = row_moments(self._tokens.prompts, self._tokens.outputs).mean(axis=0)
        values = rate[:, None] * np.concatenate(((1.0, 1.0), means))
        edges_s, sums = summed_steps(self._visits, values)
        note = "the true rate is each recorded minute's count spread evenly over the minute"
        return rate_from_sums(edges_s, sums, means, stand_in=False, note=note)
