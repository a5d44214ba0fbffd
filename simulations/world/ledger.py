"""Every GPU-second of the pool, by state and by target, exactly once.

The ledger holds how many GPUs are in which state and integrates them over time, as totals and per
bucket for the plots. Rows are the targets' GPU-holding states and, last, the pool's own (spare,
reclaiming, lent, absent). `total()` always equals pool GPUs x elapsed time: a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.arrays import FloatArray
from policies.keys import TargetKey

TARGET_STATES = ("active", "draining", "starting", "standby", "parked")
POOL_STATES = ("spare", "reclaiming", "lent", "absent")


class Ledger:
    """GPUs by (target, state) and by pool state, integrated over time in seconds.

    All GPUs begin in the pool state `begin`. Counts change through `move`; time through `advance`. `since_s` is where
    scoring starts: seconds before it are not counted.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - sizes that a replay gives by name
        self,
        targets: Sequence[TargetKey],
        pool_gpus: int,
        duration_s: float,
        bucket_s: float,
        since_s: float,
        begin: str = "lent",
    ) -> None:
        self.now_s = 0.0
        self.since_s = since_s
        self._bucket_s = bucket_s
        n_buckets = max(int(np.ceil(duration_s / bucket_s - 1e-9)), 1)
        states: list[tuple[TargetKey | None, str]] = [(key, state) for key in targets for state in TARGET_STATES]
        states += [(None, state) for state in POOL_STATES]
        self._targets = tuple(targets)
        self._slot = {of: i for i, of in enumerate(states)}
        width = len(states)
        self._gpus = np.zeros(width)
        self._gpus[self._slot[None, begin]] = pool_gpus
        self._total = np.zeros(width)
        self._buckets = np.zeros((n_buckets, width))

    def slot(self, target: TargetKey | None, state: str) -> int:
        """Return the index of a state: a target's, or the pool's own with any `target`; KeyError for neither."""
        return self._slot[None if state in POOL_STATES else target, state]

    def move(self, gpus: int, source: int, sink: int) -> None:
        """Move `gpus` GPUs between two states, given as indices of `slot`."""
        self._gpus[source] -= gpus
        self._gpus[sink] += gpus

    def correct(self, gpu_s: float, source: int, sink: int, at_s: float) -> None:
        """Shift GPU-seconds after the fact: a drain's exact end is learnt only when the engine returns."""
        if at_s < self.since_s:
            return
        for sums in (self._total, self._buckets[self._bucket(at_s)]):
            sums[source] -= gpu_s
            sums[sink] += gpu_s

    def advance(self, until_s: float) -> None:
        """Integrate the present counts up to `until_s`."""
        while self.now_s < until_s:
            bucket = self._bucket(self.now_s)
            end_s = min(until_s, (bucket + 1) * self._bucket_s)
            if end_s <= self.now_s or bucket == len(self._buckets) - 1:
                end_s = until_s
            scored_s = end_s - max(self.now_s, self.since_s)
            if scored_s > 0:
                self._total += self._gpus * scored_s
                self._buckets[bucket] += self._gpus * scored_s
            self.now_s = end_s

    def _bucket(self, at_s: float) -> int:
        return min(int(at_s / self._bucket_s + 1e-9), len(self._buckets) - 1)

    def gpus(self, target: TargetKey | None, state: str) -> int:
        """Return how many GPUs are in a state now."""
        return int(self._gpus[self.slot(target, state)])

    def total(self) -> float:
        """Return the GPU-seconds of all states together."""
        return float(self._total.sum())

    def gpu_seconds(self, target: TargetKey | None, state: str) -> float:
        """GPU-seconds in `state`: of one target, or of all targets (None), or the pool's own."""
        return float(self._total[self._slots(target, state)].sum())

    def bucket_gpus(self, target: TargetKey | None, state: str) -> FloatArray:
        """Mean GPUs in `state` per bucket, (buckets,)."""
        series: FloatArray = self._buckets[:, self._slots(target, state)].sum(axis=1) / self._bucket_s
        return series

    def _slots(self, target: TargetKey | None, state: str) -> list[int]:
        if state in POOL_STATES or target is not None:
            return [self.slot(target, state)]
        return [self.slot(key, state) for key in self._targets]
