"""Regular series of demand by target key, with explicit gaps.

`DemandFrame` is what comes in: the samples of a span of time, by key. `Block` is what is kept: an
immutable matrix of such samples with the keys of its rows. A history is a tuple of blocks, so that adding
two seconds copies nothing of the hour before. Targets join and leave between blocks: `Roster` says whose
rows count, and since when.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from policies.keys import TargetKey

ABSENT = -1
"""Row index of a target that a block knows nothing of."""
SAME_MOMENT_S = 1e-6
"""Two moments closer than this are one: sums of periods are not exact in binary."""


@dataclass(frozen=True, slots=True, eq=False)
class DemandFrame:
    """Demand in replicas over one span: for each key (samples,), NaN where a sample is missing.

    Sample j covers (start_s + j*period_s, start_s + (j+1)*period_s]. A target without an entry has a gap
    here, never zeros. Raises ValueError if series differ in length or the period is not positive.
    """

    start_s: float
    period_s: float
    demand: Mapping[TargetKey, FloatArray]

    def __post_init__(self) -> None:
        if not self.period_s > 0:
            raise ValueError(f"a sample period of {self.period_s} s; it must be positive")
        lengths = {len(samples) for samples in self.demand.values()}
        if len(lengths) > 1:
            raise ValueError(f"series of one frame differ in length: {sorted(lengths)} samples")

    @property
    def n_samples(self) -> int:
        """Return the number of samples of each target."""
        return len(next(iter(self.demand.values()))) if self.demand else 0

    @property
    def until_s(self) -> float:
        """Return when the last sample ends, in seconds."""
        return self.start_s + self.n_samples * self.period_s

    def after(self, until_s: float, most_missing: int) -> DemandFrame:
        """Return the samples that end after `until_s`, preceded by the gap between `until_s` and them.

        `until_s` is the end of what is known already, -inf if nothing is. The gap is made of NaN samples,
        at most `most_missing` of them.
        """
        if math.isinf(until_s) or not self.n_samples:
            return self
        missing = round((self.start_s - until_s) / self.period_s)
        if missing == 0 and self.start_s + self.period_s > until_s + SAME_MOMENT_S:
            return self
        if missing > 0:
            return self._preceded(min(missing, most_missing))
        seen = math.floor((until_s + SAME_MOMENT_S - self.start_s) / self.period_s)
        later = {key: samples[seen:] for key, samples in self.demand.items()}
        return DemandFrame(self.start_s + seen * self.period_s, self.period_s, later)

    def _preceded(self, missing: int) -> DemandFrame:
        gap = np.full(missing, np.nan)
        longer = {key: np.concatenate((gap, samples)) for key, samples in self.demand.items()}
        return DemandFrame(self.start_s - missing * self.period_s, self.period_s, longer)

    def matrix(self, keys: tuple[TargetKey, ...]) -> FloatArray:
        """Return the samples of `keys` as (targets, samples), NaN for those without an entry."""
        gap = np.full(self.n_samples, np.nan)
        return np.array([self.demand.get(key, gap) for key in keys]).reshape(len(keys), self.n_samples)


@dataclass(frozen=True, slots=True, eq=False)
class Roster:
    """Targets in the order of rows, and since when each belongs here.

    A target that left and came back has a new `joined_s`: nothing from before it counts.
    """

    keys: tuple[TargetKey, ...] = ()
    joined_s: tuple[float, ...] = ()

    def joined_by(self, keys: Mapping[TargetKey, FloatArray], at_s: float) -> Roster:
        """Return a roster with those of `keys` that were missing appended, joined at `at_s`; else itself."""
        have = frozenset(self.keys)
        new = tuple(key for key in keys if key not in have)
        return Roster(self.keys + new, self.joined_s + (at_s,) * len(new)) if new else self

    def kept(self, keys: frozenset[TargetKey]) -> NDArray[np.intp]:
        """Return the rows of those in `keys`, ascending."""
        return np.array([i for i, key in enumerate(self.keys) if key in keys], dtype=np.intp)

    def only(self, rows: NDArray[np.intp]) -> Roster:
        """Return the roster of these rows."""
        return Roster(tuple(self.keys[i] for i in rows), tuple(self.joined_s[i] for i in rows))

    def rows_in(self, other: Roster) -> NDArray[np.intp] | None:
        """Return the row of each target in a matrix with `other`'s rows; None if the rows are the same.

        (targets,), `ABSENT` for those that `other` does not have, or had before they left and came back.
        """
        if other is self:
            return None
        row = {member: i for i, member in enumerate(zip(other.keys, other.joined_s, strict=True))}
        found = (row.get(member, ABSENT) for member in zip(self.keys, self.joined_s, strict=True))
        return np.fromiter(found, dtype=np.intp, count=len(self.keys))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """An immutable stretch of history, rows after `roster`, in single precision to save memory.

    `levels` are the smoothed demand after each sample, one plane a smoothing rate.
    """

    start_s: float
    period_s: float
    roster: Roster
    demand: NDArray[np.float32]
    """(targets, samples)."""
    levels: NDArray[np.float32]
    """(rates, targets, samples)."""

    @property
    def n_samples(self) -> int:
        """Return the number of samples of each target."""
        return int(self.demand.shape[1])

    @property
    def until_s(self) -> float:
        """Return when the last sample ends, in seconds."""
        return self.start_s + self.n_samples * self.period_s


class Aligned:
    """Blocks side by side with the rows of one roster; parts of the rows are joined when asked for."""

    def __init__(self, blocks: tuple[Block, ...], roster: Roster) -> None:
        rows = {id(b.roster): roster.rows_in(b.roster) for b in blocks}
        self._parts = [(b, rows[id(b.roster)]) for b in blocks]
        self.n_samples = sum(b.n_samples for b in blocks)

    def demand(self, rows: slice, last: int) -> NDArray[np.float32]:
        """Return the last `last` samples of the targets in `rows`, (targets, samples), NaN in gaps."""
        parts = [_taken(b.demand, index, rows) for b, index in self._parts]
        return np.concatenate(parts, axis=-1)[..., -last:]

    def levels(self, rows: slice, last: int) -> NDArray[np.float32]:
        """Return the levels after the last `last` samples, (rates, targets, samples), NaN before the first."""
        parts = [_taken(b.levels, index, rows) for b, index in self._parts]
        return np.concatenate(parts, axis=-1)[..., -last:]

    def chosen_levels(self, rows: slice, rates: NDArray[np.intp], last: int) -> NDArray[np.float32]:
        """Return the levels of one rate a target, `rates` (targets,): (targets, samples)."""
        parts = [_taken_rates(b.levels, index, rows, rates) for b, index in self._parts]
        return np.concatenate(parts, axis=-1)[..., -last:]


def _taken(values: NDArray[np.float32], index: NDArray[np.intp] | None, rows: slice) -> NDArray[np.float32]:
    """Take `rows` of `values` (..., targets, samples) through `index`; NaN where ABSENT."""
    if index is None:
        return values[..., rows, :]
    wanted = index[rows]
    taken = np.full((*values.shape[:-2], len(wanted), values.shape[-1]), np.nan, dtype=np.float32)
    there = wanted != ABSENT
    taken[..., there, :] = values[..., wanted[there], :]
    return taken


def _taken_rates(
    levels: NDArray[np.float32], index: NDArray[np.intp] | None, rows: slice, rates: NDArray[np.intp]
) -> NDArray[np.float32]:
    if index is None:
        return levels[rates, np.arange(rows.start, rows.start + len(rates))]
    wanted = index[rows]
    taken = np.full((len(wanted), levels.shape[-1]), np.nan, dtype=np.float32)
    there = wanted != ABSENT
    taken[there] = levels[rates[there], wanted[there]]
    return taken


def merged(blocks: tuple[Block, ...], roster: Roster) -> Block:
    """Return one block of `blocks`, which must not be empty, with the rows of `roster`."""
    history, everything = Aligned(blocks, roster), slice(0, len(roster.keys))
    demand = history.demand(everything, history.n_samples)
    levels = history.levels(everything, history.n_samples)
    return Block(blocks[0].start_s, blocks[0].period_s, roster, demand, levels)
