"""The runner: one loop that lets time pass and runs each pool's pass when it is due.

The same loop drives the controller, on a wall clock, and the simulator, on a clock that moves its world. A pass that
fails changes nothing and is tried again after the policy's interval; a poke brings a pool's pass forward.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from autoscaler.clock import Clock
from autoscaler.config import ReconcileConfig
from autoscaler.errors import PortError
from autoscaler.reconcile import Ports, ReconcileState, reconcile
from autoscaler.schedule import Schedule
from policies.keys import TargetKey
from policies.types import Policy

Configured = Callable[[], ReconcileConfig]
"""A pool's configuration as it is now: targets may have come or gone since the last pass."""


class Failures(Protocol):
    """Where a pass that could not be made is reported."""

    def failed(self, pool: str, at_s: float, error: Exception) -> None:
        """Report it."""
        ...


class Runner:
    """Runs the passes of all pools, one after another, until stopped."""

    def __init__(
        self,
        ports: Ports[Any],
        policy: Policy[Any],
        pools: Mapping[str, Configured],
        clock: Clock,
        failures: Failures | None = None,
    ) -> None:
        self._ports, self._policy, self._clock, self._failures = ports, policy, clock, failures
        self._pools = dict(pools)
        self._states: dict[str, ReconcileState[Any]] = {}
        self._schedule = Schedule()
        self._pokes: deque[TargetKey] = deque()
        self._stopped = False

    def add(self, pool: str, state: ReconcileState[Any], due_s: float) -> None:
        """Let a pool's passes begin at `due_s` from `state`. KeyError for a pool without configuration."""
        self._states[pool] = state
        self._schedule = self._schedule.with_pool(pool, frozenset(self._pools[pool]().keys), due_s)

    def run(self, until_s: float = math.inf) -> None:
        """Run passes until one would be due at `until_s` or later, or until stopped."""
        while not self._stopped:
            self._take_pokes()
            pool, due_s = self._schedule.next()
            if due_s >= until_s:
                return
            if self._clock.now_s() < due_s:
                self._clock.sleep_until(due_s)
            else:
                self._pass(pool, due_s)

    def poke(self, target: TargetKey) -> None:
        """Ask for a pass of the target's pool now; may be called from another thread. Unknown targets are ignored."""
        self._pokes.append(target)
        self._clock.wake()

    def stop(self) -> None:
        """End `run` after the pass under way; may be called from another thread."""
        self._stopped = True
        self._clock.wake()

    def _take_pokes(self) -> None:
        while self._pokes:
            target = self._pokes.popleft()
            if target in self._schedule.pool_of:
                self._schedule = self._schedule.poke(target, self._clock.now_s())

    def _pass(self, pool: str, due_s: float) -> None:
        """Run one pass; its moment is when it was due, unless that is long past."""
        config, now_s = self._pools[pool](), max(due_s, self._clock.now_s())
        next_at_s = now_s + self._policy.interval_s
        try:
            self._states[pool], next_at_s = reconcile(self._ports, self._policy, config, self._states[pool], now_s)
        except PortError as error:
            if self._failures is not None:
                self._failures.failed(pool, now_s, error)
        self._schedule = self._schedule.with_pool(pool, frozenset(config.keys), next_at_s)
        self._schedule = self._schedule.after_pass(pool, now_s, next_at_s)
