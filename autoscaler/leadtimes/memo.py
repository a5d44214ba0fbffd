"""Memo: results kept with the very objects that they were computed from.

Records are immutable, so a result holds as long as its sources are the same objects (`is`, not equal:
comparing 200 records would cost more than it saves). A new version of a book shares the memo of the one
before it; what changed is recomputed when it is asked for, whatever else stays. Nothing here is part of
a book's value: an empty memo gives the same answers, later.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from autoscaler.leadtimes.estimate import Estimate, Evidence
from policies.leadtime import LeadTime
from policies.types import SupplyStep, TierSpec

T = TypeVar("T")
KEPT = 20_000
"""Results per kind before all of it is dropped: five a target for a fleet of 4,000."""


class Remembered(Generic[T]):
    """Results by key, each valid for one tuple of source objects."""

    def __init__(self) -> None:
        self._held: dict[Hashable, tuple[tuple[object, ...], T]] = {}

    def get(self, key: Hashable, sources: tuple[object, ...], make: Callable[[], T]) -> T:
        """The result of `make`, or the one kept for `key` if it came from these same source objects."""
        held = self._held.get(key)
        if held is not None and all(a is b for a, b in zip(held[0], sources, strict=True)):
            return held[1]
        if len(self._held) >= KEPT:
            self._held.clear()  # keys of sizes and targets long gone would stay for ever
        result = make()
        self._held[key] = (sources, result)
        return result


@dataclass(frozen=True, slots=True)
class Memo:
    """What a book remembers: each kind by a key of its own, never compared and never stored."""

    ladders: Remembered[tuple[TierSpec, ...]] = field(default_factory=Remembered)
    supplies: Remembered[tuple[SupplyStep, ...]] = field(default_factory=Remembered)
    lead_times: Remembered[LeadTime] = field(default_factory=Remembered)
    estimates: Remembered[Estimate] = field(default_factory=Remembered)
    evidence: Remembered[Evidence] = field(default_factory=Remembered)
    priors: Remembered[tuple[TierSpec, ...]] = field(default_factory=Remembered)
