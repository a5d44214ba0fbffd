"""The book of lead times: what was measured of each path, and the ladders that follow from it.

A book is a value: observing returns a new one. It starts from a lead time file (`parts.py`), keeps the
newest outcomes of each target, path and node class (`records.py`), and answers with the file's ladder in
which learnt lead times stand for assumed ones (`estimate.py`, `survival.py`). A target that was never
seen takes over what others showed on the same path and node class, scaled to its size. Versions of a
book share one memo of results, so that a pass pays for what changed and not for what it asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np

from autoscaler.leadtimes import stored
from autoscaler.leadtimes.estimate import NO_EVIDENCE, Estimate, Evidence, estimate, evidence, mean_attempt_s
from autoscaler.leadtimes.memo import Memo
from autoscaler.leadtimes.observation import StartObservation
from autoscaler.leadtimes.parts import FREE, LeadTimeFile
from autoscaler.leadtimes.records import Records
from autoscaler.leadtimes.shares import seconds, share_means
from policies.keys import TargetKey
from policies.leadtime import LeadTime
from policies.types import ACTIVE, COLD, SupplyStep, TierSpec

Path = tuple[str, str]
"""Tier of origin or supply step, and node class."""
Size = tuple[int, int]
"""GPUs of a replica and bytes of its weights."""
NOTHING: Final[Mapping[Path, Records]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LeadTimeBook:
    """Lead times learnt from outcomes, per target, path and node class; never mutated.

    `prior` is what is assumed before anything is seen, for every node class alike. `records` holds each
    target's own, and under None what all targets share and the supply steps; both are bounded per key.
    Equal books have equal priors and records.
    """

    prior: LeadTimeFile
    records: Mapping[TargetKey | None, Mapping[Path, Records]] = field(default_factory=dict)
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)

    def observe(self, observation: StartObservation) -> LeadTimeBook:
        """The book with one more observation; raises ValueError for a path that the prior lacks."""
        return self.observe_all((observation,))

    def observe_all(self, observations: Iterable[StartObservation]) -> LeadTimeBook:
        """The book with all of them, as if observed one by one; `self` if that changes nothing."""
        batches: dict[TargetKey | None, dict[Path, list[StartObservation]]] = {}
        for seen in observations:
            self._check_path(seen)
            for owner in dict.fromkeys((seen.target, None)):
                batches.setdefault(owner, {}).setdefault((seen.path, seen.node_class), []).append(seen)
        changed = dict(self.records)
        for owner, batch in batches.items():
            held = self.records.get(owner, NOTHING)
            joined = {path: held.get(path, Records()).join(seen) for path, seen in batch.items()}
            if any(held.get(path) != records for path, records in joined.items()):
                changed[owner] = {**held, **joined}
        unchanged = all(changed[owner] is self.records.get(owner) for owner in changed)
        return self if unchanged else replace(self, records=changed)

    def retain(self, targets: Collection[TargetKey]) -> LeadTimeBook:
        """The book without the own records of targets not named; what they shared stays and ages."""
        kept = {owner: held for owner, held in self.records.items() if owner is None or owner in targets}
        return self if len(kept) == len(self.records) else LeadTimeBook(self.prior, kept)

    def ladder(
        self,
        target: TargetKey,
        gpus_per_replica: int,
        weights_bytes: int,
        node_class: str,
        *,
        restored: bool = True,
    ) -> tuple[TierSpec, ...]:
        """Rungs of a replica, nearest first by the prior, with learnt lead times.

        `restored` False leaves `active` and `cold`. After a failed restore follows this target's own
        cold start, after a failed cold start another one; each takes longer (or shorter) by as much as
        failed attempts were seen to take longer than successful ones.
        """
        size = (gpus_per_replica, weights_bytes)
        sources = self.records.get(target, NOTHING), self.records.get(None, NOTHING)
        make = partial(self._ladder, target, size, node_class, restored)
        return self.memo.ladders.get((target, node_class, restored, size), sources, make)

    def supply(self, kind: str, node_class: str) -> tuple[SupplyStep, ...]:
        """GPU supply ladder as `LeadTimeFile.supply`, with learnt lead times; raises InputError as it does.

        A supply step that fails is tried again.
        """
        sources = (self.records.get(None, NOTHING),)
        return self.memo.supplies.get((kind, node_class), sources, partial(self._supply, kind, node_class))

    def to_json(self) -> str:
        """All records as one JSON text; the prior, which is a file of its own, is not in it."""
        return stored.to_json(self.records)

    @classmethod
    def from_json(cls, text: str, prior: LeadTimeFile) -> LeadTimeBook:
        """The book of `to_json`; raises ValueError for any other text."""
        return cls(prior, stored.from_json(text))

    # -- from records to lead times ---------------------------------------------------------------

    def _ladder(self, target: TargetKey, size: Size, node_class: str, restored: bool) -> tuple[TierSpec, ...]:
        active, *rungs = self._prior_ladder(size, restored)
        cold = self._retried(target, (COLD, node_class), size)
        learnt = (
            cold if t.name == COLD else self._falling_back(target, (t.name, node_class), size, cold) for t in rungs
        )
        return (active, *(replace(t, lead_time=lead_time) for t, lead_time in zip(rungs, learnt, strict=True)))

    def _falling_back(self, target: TargetKey, path: Path, size: Size, fallback: LeadTime) -> LeadTime:
        """A lead time whose failures end in `fallback`."""
        seen = self._estimate(target, path, size)
        make = partial(_followed_by, seen, fallback)
        return self.memo.lead_times.get((target, path, size), (seen, fallback), make)

    def _retried(self, target: TargetKey | None, path: Path, size: Size) -> LeadTime:
        """A lead time whose failures end in the same attempt once more."""
        seen = self._estimate(target, path, size)
        make = partial(_followed_by, seen, LeadTime(seen.attempt_s))
        return self.memo.lead_times.get((target, path, size), (seen,), make)

    def _supply(self, kind: str, node_class: str) -> tuple[SupplyStep, ...]:
        free, *steps = self.prior.supply(kind)
        learnt = (self._retried(None, (s.name, node_class), (0, 0)) for s in steps)
        return (free, *(replace(s, lead_time=t) for s, t in zip(steps, learnt, strict=True)))

    def _estimate(self, target: TargetKey | None, path: Path, size: Size) -> Estimate:
        """Estimate of one path; targets without records of their own share one for each size."""
        own = self.records.get(target, NOTHING).get(path) if target is not None else None
        shared = self.records.get(None, NOTHING).get(path)
        owner = target if own is not None else None

        def make() -> Estimate:
            prior = self._prior(path[0], size)
            if own is None and shared is None:
                return Estimate(prior.quantiles_s, prior.failure_probability, 0.0)
            of_all = self._evidence(None, path, shared)
            return estimate(prior, self._evidence(target, path, own), of_all.without(owner) if owner else of_all)

        return self.memo.estimates.get((owner, path, size), (own, shared), make)

    def _evidence(self, owner: TargetKey | None, path: Path, records: Records | None) -> Evidence:
        if records is None:
            return NO_EVIDENCE
        return self.memo.evidence.get((owner, path), (records,), partial(evidence, records, self._typical_s))

    def _typical_s(self, seen: StartObservation) -> float:
        return mean_attempt_s(self._prior(seen.path, (seen.gpus_per_replica, seen.weights_bytes)))

    def _prior(self, path: str, size: Size) -> LeadTime:
        if size == (0, 0):
            return self.prior.supply(path)[1].lead_time
        return next(t.lead_time for t in self._prior_ladder(size, True) if t.name == path)

    def _prior_ladder(self, size: Size, restored: bool) -> tuple[TierSpec, ...]:
        return self.memo.priors.get((size, restored), (), partial(self.prior.ladder, *size, restored))

    def _check_path(self, seen: StartObservation) -> None:
        if seen.target is None:
            known = set(self.prior.supply_steps) - {FREE}
        else:
            known = {t.name for t in self._prior_ladder((1, 0), True)} - {ACTIVE}
        if seen.path not in known:
            raise ValueError(f"path: {seen.path!r} has no prior in {self.prior.name}; give {', '.join(sorted(known))}")


def _followed_by(seen: Estimate, fallback: LeadTime) -> LeadTime:
    """The lead time whose failures end in the fallback, later by what failing takes longer."""
    if not seen.failure_probability:
        return LeadTime(seen.attempt_s)
    after_s = np.maximum(np.asarray(_equal_shares(fallback)) + seen.failure_excess_s, 0.0)
    return LeadTime(seen.attempt_s, seen.failure_probability, seconds(after_s))


def _equal_shares(lead_time: LeadTime) -> tuple[float, ...]:
    """The whole mixture, its failures included, as equally likely values."""
    return seconds(share_means(*lead_time.atoms())) if lead_time.failure_probability else lead_time.quantiles_s
