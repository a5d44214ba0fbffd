"""The `MetricSource` port over the engines: regular samples, and gaps where the record has one.

What a metrics system would scrape from the gateway and the engines: offered requests and their
prompt tokens, completions and their output tokens, requests running and queued. Nothing of the
future and no output length of an unfinished request is told. Where the trace has a gap every value
is NaN: the simulated world must not turn a hole in the record into zero load.
"""

from __future__ import annotations

import numpy as np

from autoscaler.ports import MetricFrame
from simulations.world.serving import Serving

FIELDS = 7


class SimulatedMetrics:
    """Implements `MetricSource`; every read returns the samples since the last."""

    def __init__(self, serving: tuple[Serving, ...], period_s: float) -> None:
        self._serving = serving
        self._period_s = period_s
        self._read_samples = 0

    def read(self, now_s: float) -> MetricFrame:
        """Samples of the periods that ended since the last read, up to `now_s`."""
        start_s = self._read_samples * self._period_s
        rows = [s.fleet.take_samples() for s in self._serving]
        n = len(rows[0])
        values = np.array(rows, dtype=np.float64).reshape(len(rows), n, FIELDS)
        for i, serving in enumerate(self._serving):
            for j in range(n):
                at_s = start_s + j * self._period_s
                if serving.stream.in_gap(at_s, at_s + self._period_s):
                    values[i, j] = np.nan
        self._read_samples += n
        arrived, prompt, completed, output, running, queued, queued_prompt = np.moveaxis(values, 2, 0)
        return MetricFrame(
            start_s=start_s,
            period_s=self._period_s,
            offered_requests=arrived,
            prompt_tokens=prompt,
            completed_requests=completed,
            output_tokens=output,
            running=running,
            queued=queued,
            queued_prompt_tokens=queued_prompt,
        )
