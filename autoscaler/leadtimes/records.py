"""Records: the newest observations of one key, each attempt once, with the weight that its age leaves it.

Joining is idempotent and, below the bounds, independent of order: an attempt counts by its newest
observation, an ended one before a pending one, and age is `at_s` and never the order of arrival. So a
controller may observe again after a conflict, a restart or a late watch event without counting twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from autoscaler.leadtimes.observation import StartObservation
from policies.arrays import FloatArray

ENDED_KEPT: Final = 150
PENDING_KEPT: Final = 50
"""200 records a key in all, divided so that no flood of pending starts can displace what ended."""
HALF_LIFE: Final = 50
"""Outcomes until an older one counts half: at rest the weights sum to 72, and the oldest kept has 1/8.
Counted in outcomes and not in hours, so that what starts once a week is not forgotten in between."""


@dataclass(frozen=True, slots=True)
class Records:
    """Ended and pending observations of one key, each oldest first."""

    ended: tuple[StartObservation, ...] = ()
    pending: tuple[StartObservation, ...] = ()

    def join(self, seen: Iterable[StartObservation]) -> Records:
        """These records and `seen` together, within the bounds; `self` if that changes nothing.

        A pending record older than the oldest of a full set of ended ones is dropped: its outcome
        was never observed, and by its age nothing is learnt from it any more.
        """
        newest: dict[object, StartObservation] = {}
        for record in (*self.ended, *self.pending, *seen):
            held = newest.setdefault((record.target, record.replica), record)
            if _precedence(record) > _precedence(held):
                newest[record.target, record.replica] = record
        by_age = sorted(newest.values(), key=_age)
        ended = tuple(r for r in by_age if r.ended)[-ENDED_KEPT:]
        since_s = ended[0].at_s if len(ended) == ENDED_KEPT else -np.inf
        pending = tuple(r for r in by_age if not r.ended and r.at_s >= since_s)[-PENDING_KEPT:]
        joined = Records(ended, pending)
        return self if joined == self else joined

    def weights(self) -> FloatArray:
        """Weight of each ended and then each pending record: 1 halved every HALF_LIFE newer outcomes.

        Pending records age nothing, so what has not ended can only add to an estimate.
        """
        ended_s = np.array([r.at_s for r in self.ended])
        pending_s = np.array([r.at_s for r in self.pending])
        newer = np.concatenate(
            (np.arange(len(ended_s))[::-1], len(ended_s) - np.searchsorted(ended_s, pending_s, side="right"))
        )
        weights: FloatArray = np.exp2(-newer / HALF_LIFE)
        return weights


def _age(record: StartObservation) -> tuple[float, str, str]:
    return record.at_s, record.replica, str(record.target)


def _precedence(record: StartObservation) -> tuple[bool, float, float, str]:
    return record.ended, record.at_s, record.elapsed_s, record.outcome
