"""What the rest of the simulator sees of a trace: requests up to a moment, gaps, and the true rate.

`ArrivalStream` is handed pieces (`Chunk`) by one of `from_arrivals.py`, `from_counts.py`,
`from_rates.py` and cuts them where its caller asks. Where pieces begin and end depends on the trace
and the seed alone, never on the caller, so that however a stream is sliced its requests are the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from policies.arrays import FloatArray
from simulations.traces.arrays import TokenArray

Taken = tuple[FloatArray, TokenArray, TokenArray]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream: all requests from the end of the piece before up to `end_s`; arrays (n,)."""

    times_s: FloatArray
    """Ascending, seconds from the replay's start, below `end_s`."""
    prompt_tokens: TokenArray
    output_tokens: TokenArray
    end_s: float


@dataclass(frozen=True, slots=True)
class TrueRate:
    """What an all-knowing forecast would know: the law of the arrivals, not the arrivals.

    A step function: entry i holds over [edges_s[i], edges_s[i + 1]). Arrays are (steps,), `edges_s`
    (steps + 1,). Where the rate is 0 (in a gap, too) the burstiness is 1 and the token moments are
    those of the whole stream.
    """

    edges_s: FloatArray
    rate_rps: FloatArray
    burstiness: FloatArray
    """Asymptotic index of dispersion for counts, Var N(t) / E N(t) for long t: 1 for Poisson. For a
    superposition of renewal processes the rate-weighted mean of cv^2. Over a horizon too short to
    hold many intervals the real dispersion is smaller."""
    mean_prompt: FloatArray
    mean_output: FloatArray
    mean_prompt_square: FloatArray
    mean_output_square: FloatArray
    mean_prompt_output: FloatArray
    """Mean of the product of prompt and output tokens."""
    stand_in: bool
    """True where the true rate is unknown and a smoothed record stands in for it."""
    note: str
    """What the rate is, in one sentence for the report."""

    def step_at(self, at_s: float) -> int:
        """Index of the step that holds at `at_s`; the nearest one outside the stream."""
        step = int(np.searchsorted(self.edges_s, at_s, side="right")) - 1
        return min(max(step, 0), self.rate_rps.size - 1)


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What the report says of a stream."""

    name: str
    kind: str
    """`arrivals`, `counts` or `rates`."""
    licence: str
    citation: str
    span_s: float
    """Length of the piece that is replayed."""
    requests: int
    """Requests in it, scale and thinning included: expected, where they are drawn."""
    rule: str
    """How arrivals and tokens are made from the record, in one sentence."""


class ChunkSource(Protocol):
    """One kind of record, being turned into requests. Made anew for every stream."""

    @property
    def duration_s(self) -> float:
        """Return the stream's length in seconds."""
        ...

    def next_chunk(self) -> Chunk:
        """Return the next piece; pieces end at `duration_s`, and there is none after that."""
        ...

    def gaps_s(self) -> list[tuple[float, float]]:
        """Disjoint stretches of missing record, ascending."""
        ...

    def true_rate(self) -> TrueRate:
        """Return the law that the arrivals are drawn from."""
        ...

    def mean_tokens(self) -> tuple[float, float]:
        """Return mean prompt and output tokens of a request."""
        ...


class ArrivalStream:
    """One target's requests from the replay's start (t = 0) to `duration_s`; can be run through once."""

    def __init__(self, source: ChunkSource, info: TraceInfo) -> None:
        self.info = info
        self.duration_s = source.duration_s
        self._source = source
        self._chunk = Chunk(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32), 0.0)
        self._next = 0
        self._taken_s = 0.0
        gaps = source.gaps_s()
        self._gap_starts_s = [start_s for start_s, _ in gaps]
        self._gap_ends_s = [end_s for _, end_s in gaps]

    def take_until(self, until_s: float) -> Taken:
        """Return times (s, float64, sorted), prompt and output tokens (int32) of the requests in [last, until_s).

        The arrays are views into a piece where the interval lies within one. Raises ValueError when
        `until_s` lies before the last call's.
        """
        if not until_s >= self._taken_s:
            raise ValueError(f"the stream stands at {self._taken_s} s and cannot go back to {until_s} s")
        self._taken_s = until_s
        if until_s <= self._chunk.end_s or self._chunk.end_s >= self.duration_s:
            return self._cut(until_s)
        parts = [self._cut(until_s)]
        while self._chunk.end_s < min(until_s, self.duration_s):
            self._chunk, self._next = self._source.next_chunk(), 0
            parts.append(self._cut(until_s))
        parts = [part for part in parts if part[0].size] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        times, prompts, outputs = zip(*parts, strict=True)
        return np.concatenate(times), np.concatenate(prompts), np.concatenate(outputs)

    def chunks(self) -> Iterator[Chunk]:
        """Return the rest of the stream, piece by piece, from where it stands."""
        while True:
            end_s = self._chunk.end_s
            times, prompts, outputs = self._cut(end_s)
            self._taken_s = max(self._taken_s, end_s)
            if times.size:
                yield Chunk(times, prompts, outputs, end_s)
            if end_s >= self.duration_s:
                return
            self._chunk, self._next = self._source.next_chunk(), 0

    def in_gap(self, start_s: float, end_s: float) -> bool:
        """Whether the record is missing anywhere in [start_s, end_s): a metric must be missing too."""
        i = bisect_left(self._gap_starts_s, end_s) - 1
        return i >= 0 and self._gap_ends_s[i] > start_s

    def true_rate(self) -> TrueRate:
        """Return the law that the arrivals are drawn from, over the whole stream, wherever it stands."""
        return self._source.true_rate()

    def mean_tokens(self) -> tuple[float, float]:
        """Mean prompt and output tokens of a request, over the whole stream."""
        return self._source.mean_tokens()

    def _cut(self, until_s: float) -> Taken:
        chunk, begin = self._chunk, self._next
        end = self._next = int(chunk.times_s.searchsorted(until_s))
        return chunk.times_s[begin:end], chunk.prompt_tokens[begin:end], chunk.output_tokens[begin:end]
