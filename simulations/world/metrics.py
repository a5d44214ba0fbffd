"""Implement the `MetricSource` port over the engines: regular samples, and gaps where the record has one.

The samples are what a metrics system would scrape from the gateway and the engines: offered requests and their
prompt tokens, completions and their output tokens, requests running and queued. Neither the future nor the output
length of an unfinished request is among them. Where the trace has a gap every value is NaN: a gap in the record
must not become zero load.

Samples are kept for `HISTORY_S`, so that equal reads give equal frames, and a pass that begins without a state
finds the past it needs.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from autoscaler.ports import MetricFrame
from policies.arrays import FloatArray
from policies.keys import TargetKey
from simulations.world.serving import Serving

COLUMNS = (
    "offered_requests",
    "prompt_tokens",
    "completed_requests",
    "output_tokens",
    "running",
    "queued",
    "queued_prompt_tokens",
)
"""In the order of the engine's samples."""
HISTORY_S = 7200.0
"""Twice as far as any forecast looks back."""


class SimulatedMetrics:
    """Implements `MetricSource`."""

    def __init__(self, serving: dict[TargetKey, Serving], period_s: float) -> None:
        self._serving = serving
        self._period_s = period_s
        self._row = {key: i for i, key in enumerate(serving)}
        self._kept = round(HISTORY_S / period_s)
        # Twice as long as what is kept: old samples are dropped once in a while, in one move.
        self._buffer = np.empty((len(serving), 2 * self._kept, len(COLUMNS)))
        self._first, self._end = 0, 0
        """Numbers of the first sample kept and of the next to come; sample n begins n periods after the start."""

    def read(self, keys: Collection[TargetKey], after_s: float, until_s: float) -> MetricFrame:
        """Return the kept samples of the periods that end within (after_s, until_s]."""
        self._collect()
        begin = min(max(self._period_at(after_s), self._first), self._end)
        end = max(min(self._period_at(until_s), self._end), begin)
        wanted = tuple(k for k in keys if k in self._row)
        rows = [self._row[k] for k in wanted]
        values = self._buffer[rows, begin - self._first : end - self._first]
        columns = {name: values[:, :, c] for c, name in enumerate(COLUMNS)}
        return MetricFrame(keys=wanted, start_s=begin * self._period_s, period_s=self._period_s, **columns)

    def _period_at(self, at_s: float) -> int:
        return int(np.floor(at_s / self._period_s + 1e-9))

    def _collect(self) -> None:
        """Take what the engines have sampled since the last read, and forget what is too old."""
        new = np.array([self._marked(s, s.fleet.take_samples()) for s in self._serving.values()])
        count = new.shape[1]
        held = self._end - self._first
        if held + count > self._buffer.shape[1]:
            held = self._forget(held, count)
        self._end += count
        new = new[:, -self._kept :] if held == 0 else new
        self._buffer[:, held : held + new.shape[1]] = new
        self._first = self._end - held - new.shape[1]

    def _forget(self, held: int, count: int) -> int:
        """Drop old samples so that `count` new ones fit; return how many are still held."""
        keep = max(self._kept - count, 0)
        self._buffer[:, :keep] = self._buffer[:, held - keep : held].copy()
        return keep

    def _marked(self, serving: Serving, samples: FloatArray) -> FloatArray:
        """Return an engine's new samples, (samples, columns), NaN within gaps of the record."""
        values = np.array(samples, dtype=np.float64).reshape(-1, len(COLUMNS))
        for j in range(len(values)):
            at_s = (self._end + j) * self._period_s
            if serving.stream.in_gap(at_s, at_s + self._period_s):
                values[j] = np.nan
        return values
