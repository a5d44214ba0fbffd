"""Arrival streams made by hand: equal requests at equal distances, with gaps in the record where a test wants them."""

from __future__ import annotations

import numpy as np

from simulations.traces import ArrivalStream, TraceInfo
from simulations.traces.stream import Chunk, TrueRate

DURATION_S = 1e6
INFO = TraceInfo("made", "arrivals", "none", "none", DURATION_S, 0, "Made by hand.")


class Arrivals:
    """A `ChunkSource`: a request every `every_s` seconds from 0.5 s on, none if it is 0."""

    def __init__(self, every_s: float, output_tokens: int = 10, gaps: tuple[tuple[float, float], ...] = ()) -> None:
        self._every_s, self._output_tokens, self._gaps = every_s, output_tokens, gaps
        self._end_s = 0.0

    @property
    def duration_s(self) -> float:
        return DURATION_S

    def next_chunk(self) -> Chunk:
        """Return an hour of requests."""
        begin_s, self._end_s = self._end_s, self._end_s + 3600.0
        times_s = np.arange(begin_s + 0.5, self._end_s, self._every_s) if self._every_s else np.zeros(0)
        tokens = np.full(times_s.size, self._output_tokens, np.int32)
        return Chunk(times_s, np.full(times_s.size, 10, np.int32), tokens, self._end_s)

    def gaps_s(self) -> list[tuple[float, float]]:
        return list(self._gaps)

    def true_rate(self) -> TrueRate:
        raise NotImplementedError("what replays requests never asks for the true rate")

    def mean_tokens(self) -> tuple[float, float]:
        raise NotImplementedError("what replays requests never asks for mean tokens")


def stream(every_s: float, output_tokens: int = 10, gaps: tuple[tuple[float, float], ...] = ()) -> ArrivalStream:
    return ArrivalStream(Arrivals(every_s, output_tokens, gaps), INFO)
