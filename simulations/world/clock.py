"""The runner's clock over a simulated world: to sleep is to let the world advance."""

from __future__ import annotations

from collections.abc import Callable

from simulations.world.cluster import SimulatedCluster

Progress = Callable[[float], None]
"""Called with the share of the replay that is done, 0 to 1."""
SHOWN_SHARE = 0.01
"""Progress is shown in steps of a hundredth: a day has 43,200 passes."""


class SimulatedClock:
    """Implements `autoscaler.clock.Clock`; seconds from the replay's start."""

    def __init__(self, cluster: SimulatedCluster, duration_s: float, progress: Progress | None = None) -> None:
        self._cluster, self._duration_s, self._progress = cluster, duration_s, progress
        self._shown = 0.0

    def now_s(self) -> float:
        """Return the world's moment."""
        return self._cluster.now_s

    def sleep_until(self, at_s: float) -> None:
        """Let everything happen up to `at_s`."""
        self._cluster.advance(at_s)
        share = at_s / self._duration_s
        if self._progress is not None and share - self._shown > SHOWN_SHARE:
            self._shown = share
            self._progress(min(share, 1.0))

    def wake(self) -> None:
        """Nothing sleeps here: a replay has one thread."""
