"""Requests from rates and burstiness by client and window: a renewal process for each client.

Each client of each copy is a source: a renewal process in operational time with the law that
`intervals.py` gives its window, run at the rate of the moment. A source starts in equilibrium and
carries its unfinished wait over each window's border, and over windows in which it sends nothing.
K copies of a client are K independent processes.

A piece lies between two borders of any copy, and holds some `CHUNK_REQUESTS` requests; memory does
not grow with the length of the stream.
"""

from __future__ import annotations

import numpy as np

from policies.arrays import FloatArray
from simulations.traces.copies import (
    CHUNK_REQUESTS,
    LONGEST_CHUNK_NS,
    Draw,
    gaps_s,
    rate_from_sums,
    summed_steps,
    thinned_dispersion,
    visits_of,
)
from simulations.traces.intervals import Laws, carried, laws_for
from simulations.traces.kernels import draw_renewals, tokens_by_client
from simulations.traces.records import NS, RateRecord
from simulations.traces.stream import Chunk, TrueRate
from simulations.traces.tokens import QuantileTables


class RenewalArrivals:
    """A `ChunkSource` over one piece of a `RateRecord`. Sources are ordered by copy, then client."""

    def __init__(self, record: RateRecord, tables: QuantileTables, draw: Draw, family: str) -> None:
        self._record = record
        self._tables = tables
        self._draw = draw
        self._family = family
        self._visits = visits_of(round(record.window_s * NS), draw)
        self._token_key = draw.seeds("tokens", 1)[0]
        self._now_ns = 0
        self._next_visit = 0
        self._made = 0
        self._client_bits = max(len(record.clients).bit_length(), 1)
        self._keys = np.empty(2 * CHUNK_REQUESTS, np.int64)
        self._start_sources()

    def _start_sources(self) -> None:
        clients, copies = len(self._record.clients), self._draw.scale
        words = np.concatenate([self._draw.seeds("sources", 3 * clients, copy) for copy in range(copies)])
        words = words.reshape(clients * copies, 3)
        self._random = words[:, :2].copy()
        self._random[:, 1] |= np.uint64(1)
        # All begin as Poisson in equilibrium; the first window's law takes the wait over by rank.
        self._laws = laws_for(np.ones(clients * copies), "auto")
        uniform = (words[:, 2] >> np.uint64(11)) * 2.0**-53
        self._waits = -np.log1p(-uniform)
        self._rates = np.zeros(clients * copies)
        self._clients = np.tile(np.arange(clients), copies)

    @property
    def duration_s(self) -> float:
        """Return the stream's length in seconds."""
        return self._draw.span_ns / NS

    @property
    def expected(self) -> float:
        """Return how many requests the stream is expected to hold."""
        return float(self._client_requests().sum() * self._draw.thin)

    def _client_requests(self) -> FloatArray:
        """Return expected requests by client over the stream, before thinning, (clients,)."""
        visits = self._visits
        stay_s = np.bincount(visits.cell, (visits.end_ns - visits.start_ns) / NS, self._record.known.size)
        return self._record.rate_rps @ stay_s

    def next_chunk(self) -> Chunk:
        """Return the next piece."""
        start_ns = self._now_ns
        self._enter_windows(start_ns)
        border_ns = self._draw.span_ns
        if self._next_visit < self._visits.start_ns.size:
            border_ns = int(self._visits.start_ns[self._next_visit])
        per_ns = float(self._rates.sum()) * self._draw.thin / NS
        length_ns = min(border_ns - start_ns, LONGEST_CHUNK_NS, int(CHUNK_REQUESTS / max(per_ns, 1e-12)))
        length_ns = max(1, length_ns)
        keys = self._drawn(length_ns)
        self._now_ns = start_ns + length_ns
        return self._chunk(keys, start_ns)

    def _enter_windows(self, now_ns: int) -> None:
        visits, record, clients = self._visits, self._record, len(self._record.clients)
        while self._next_visit < visits.start_ns.size and visits.start_ns[self._next_visit] <= now_ns:
            copy, window = int(visits.copy[self._next_visit]), visits.cell[self._next_visit]
            self._next_visit += 1
            own = slice(copy * clients, (copy + 1) * clients)
            self._rates[own] = record.rate_rps[:, window]
            sending = np.flatnonzero(record.rate_rps[:, window] > 0.0)
            self._change_laws(copy * clients + sending, laws_for(record.cv[sending, window], self._family))

    def _change_laws(self, sources: np.ndarray[tuple[int], np.dtype[np.int64]], after: Laws) -> None:
        before = self._laws.chosen(sources)
        changed = (before.code != after.code) | (before.a != after.a) | (before.b != after.b)
        before, after, sources = before.chosen(changed), after.chosen(changed), sources[changed]
        self._waits[sources] = carried(before, after, self._waits[sources])
        self._laws.code[sources] = after.code
        self._laws.a[sources] = after.a
        self._laws.b[sources] = after.b

    def _drawn(self, length_ns: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Sorted keys of all arrivals in the next `length_ns`; the buffer doubles when a burst fills it."""
        filled = source = 0
        while source < self._rates.size:
            filled, source = draw_renewals(
                self._keys, filled, source, length_ns, self._rates, self._laws.code, self._laws.a, self._laws.b,
                self._waits, self._random, self._clients, self._client_bits, self._draw.thin,
            )  # fmt: skip
            if source < self._rates.size:
                self._keys = np.concatenate((self._keys, np.empty_like(self._keys)))
        keys = self._keys[:filled]
        keys.sort()
        return keys

    def _chunk(self, keys: np.ndarray[tuple[int], np.dtype[np.int64]], start_ns: int) -> Chunk:
        times_s, prompts, outputs = np.empty(keys.size), np.empty(keys.size, np.int32), np.empty(keys.size, np.int32)
        tokens_by_client(
            keys, self._client_bits, start_ns, self._made, self._token_key, self._tables.prompts,
            self._tables.outputs, times_s, prompts, outputs,
        )  # fmt: skip
        self._made += keys.size
        return Chunk(times_s, prompts, outputs, self._now_ns / NS)

    def gaps_s(self) -> list[tuple[float, float]]:
        """Return the stretches without a record, ascending, in seconds."""
        return gaps_s(self._visits, self._record.known)

    def mean_tokens(self) -> tuple[float, float]:
        """Mean over clients, each weighing as much as it sends in the piece."""
        prompt, output, *_ = self._mean_moments()
        return float(prompt), float(output)

    def _mean_moments(self) -> FloatArray:
        sent = self._client_requests()
        moments = self._tables.moments()
        return sent @ moments / sent.sum() if sent.sum() > 0 else moments.mean(axis=0)

    def true_rate(self) -> TrueRate:
        """Return the record's own rates, summed over clients and copies: exact, since the law is ours."""
        rate = self._record.rate_rps.T * self._draw.thin
        dispersion = thinned_dispersion(self._record.cv.T**2, self._draw.thin)
        moments = self._tables.moments()
        values = np.column_stack((rate.sum(axis=1), (rate * dispersion).sum(axis=1), rate @ moments))
        edges_s, sums = summed_steps(self._visits, values)
        note = "the true rate is the recorded one of each client and window, from which the arrivals are drawn"
        return rate_from_sums(edges_s, sums, self._mean_moments(), stand_in=False, note=note)
