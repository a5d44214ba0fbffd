"""What a replay remembers of its decisions: the forecast band, and why plans changed.

Implements the `Recorder` port. One forecast per bucket is kept, at the bucket where it comes true,
so that the report can lay the band over the demand that really came.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from autoscaler.ports import PassRecord
from policies.paths import DemandPaths

BAND = (0.1, 0.5, 0.9)


class SeriesRecorder:
    """Forecast quantiles per target and bucket, counts of reasons, number of decisions."""

    def __init__(self, n_targets: int, duration_s: float, bucket_s: float, horizon_s: float) -> None:
        self.decisions = 0
        self.reasons: Counter[str] = Counter()
        self.horizon_s = horizon_s
        self._bucket_s = bucket_s
        n_buckets = max(int(np.ceil(duration_s / bucket_s - 1e-9)), 1)
        self.band = np.full((len(BAND), n_targets, n_buckets), np.nan)
        self._banded = -1

    def record(self, record: PassRecord) -> None:
        self.decisions += 1
        for target in record.plan.targets:
            self.reasons[target.reasons[0].code] += 1
        if record.given.paths is not None:
            self._record_band(record.given.now_s, record.given.paths)

    def _record_band(self, now_s: float, paths: DemandPaths) -> None:
        step = min(int(np.searchsorted(paths.step_ends_s, self.horizon_s)), len(paths.step_ends_s) - 1)
        bucket = int((now_s + float(paths.step_ends_s[step])) / self._bucket_s)
        if bucket <= self._banded or bucket >= self.band.shape[2]:
            return
        self._banded = bucket
        self.band[:, :, bucket] = np.quantile(paths.paths[:, :, step], BAND, axis=1)
