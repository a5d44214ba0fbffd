"""Implement the `Recorder` port for a replay: the newest record, the forecast band, counts of reasons.

One forecast per bucket is kept, the first whose step ends in it, so that the report can lay the band over the demand
that really came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from autoscaler.ports import PassRecord
from policies.keys import TargetKey
from policies.paths import DemandPaths

BAND = (0.1, 0.5, 0.9)


class SeriesRecorder:
    """Forecast quantiles per target and bucket, counts of reasons, number of decisions.

    Targets are in the order of `keys`. `keep` is called with each completed record.
    """

    def __init__(
        self,
        keys: Sequence[TargetKey],
        duration_s: float,
        bucket_s: float,
        horizon_s: float,
        keep: Callable[[PassRecord], None] | None = None,
    ) -> None:
        self.decisions = 0
        self.reasons: Counter[str] = Counter()
        self.horizon_s = horizon_s
        self._keys = tuple(keys)
        self._bucket_s = bucket_s
        self._keep = keep
        self._last: dict[str, PassRecord] = {}
        n_buckets = max(int(np.ceil(duration_s / bucket_s - 1e-9)), 1)
        self.band = np.full((len(BAND), len(self._keys), n_buckets), np.nan)
        self._banded = -1

    def begin(self, record: PassRecord) -> None:
        """Keep the record of a pass that is about to act."""
        self._last[record.pool] = record

    def complete(self, record: PassRecord) -> None:
        """Count a pass once, when it has acted."""
        self._last[record.pool] = record
        self.decisions += 1
        for planned in record.plan.targets.values():
            self.reasons[planned.reasons[0].code] += 1
        if record.given.paths is not None:
            self._record_band(record.given.now_s, record.given.paths)
        if self._keep is not None:
            self._keep(record)

    def last(self, pool: str) -> PassRecord | None:
        """Return the pool's newest record; None if it has none."""
        return self._last.get(pool)

    def _record_band(self, now_s: float, paths: DemandPaths) -> None:
        step = min(int(np.searchsorted(paths.step_ends_s, self.horizon_s)), len(paths.step_ends_s) - 1)
        bucket = int((now_s + float(paths.step_ends_s[step])) / self._bucket_s)
        if bucket <= self._banded or bucket >= self.band.shape[2]:
            return
        self._banded = bucket
        self.band[:, :, bucket] = np.quantile(paths.rows(self._keys).paths[:, :, step], BAND, axis=1)
