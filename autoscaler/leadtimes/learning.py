"""Lead times in a pass: the ladders that it plans with, and what its view adds to the book."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from autoscaler.config import ReconcileConfig
from autoscaler.leadtimes.book import LeadTimeBook
from autoscaler.leadtimes.observation import StartObservation
from autoscaler.leadtimes.watch import Scope, Size, Watch
from autoscaler.ports import ClusterView
from policies.keys import TargetKey
from policies.types import PoolSpec, TargetSpec

LEARN_EVERY_S = 30.0
"""Outcomes enter the book twice a minute: each changes the ladders of all targets of its GPU model, which costs a
tenth of a second for a thousand of them, and lead times do not change faster."""


@dataclass(frozen=True, slots=True)
class Learning:
    """The book and the attempts that it will learn from; a value, part of the pass's state. No book learns nothing."""

    book: LeadTimeBook | None
    watch: Watch = field(default_factory=Watch)
    waiting: tuple[StartObservation, ...] = ()
    """Observed, and not in the book yet."""
    learnt_at_s: float = 0.0
    _specs: list[Any] = field(default_factory=list, compare=False, repr=False)
    """Derived, and kept while neither book nor targets change: the targets they belong to, and their specs."""

    def after_view(self, config: ReconcileConfig, view: ClusterView, now_s: float) -> Learning:
        """Return what is known after `view`, seen at `now_s`."""
        if self.book is None:
            return self
        specs = {t.spec.key: t.spec for t in config.targets}
        sizes = {t.spec.key: Size(t.spec.gpus_per_replica, t.weights_bytes) for t in config.targets}
        pool = config.pool
        scope = Scope(specs, sizes, pool.supply, pool.gpu_model)
        watch, observed = self.watch.next(view.replicas, scope, now_s)
        learning = Learning(self.book, watch, (*self.waiting, *observed), self.learnt_at_s, self._specs)
        return learning.learnt(frozenset(specs), now_s) if now_s - self.learnt_at_s >= LEARN_EVERY_S else learning

    def learnt(self, targets: frozenset[TargetKey], now_s: float) -> Learning:
        """Return what is known once the book has taken in what waits, and forgotten targets that left."""
        book = None if self.book is None else self.book.retain(targets).observe_all(self.waiting)
        return Learning(book, self.watch, (), now_s)

    def specs(self, config: ReconcileConfig) -> tuple[TargetSpec, ...]:
        """Return the targets' specs with the ladders that are known now."""
        if self.book is None:
            return tuple(t.spec for t in config.targets)
        if self._specs and self._specs[0] is config.targets:
            known: tuple[TargetSpec, ...] = self._specs[1]
            return known
        model = config.pool.gpu_model
        specs = tuple(
            replace(
                t.spec,
                ladder=self.book.ladder(
                    t.spec.key, t.spec.gpus_per_replica, t.weights_bytes, model, restored=t.restored
                ),
            )
            for t in config.targets
        )
        self._specs[:] = (config.targets, specs)
        return specs

    def pool(self, config: ReconcileConfig) -> PoolSpec:
        """Return the pool with the supply ladder that is known now."""
        if self.book is None:
            return config.pool
        kind = "+".join(step.name for step in config.pool.supply[1:])
        return replace(config.pool, supply=self.book.supply(kind, config.pool.gpu_model))
