"""Ladders: which steps are worth a place, and when the next replica or GPU could be here.

Any ladder can be described (`TierSpec`, `SupplyStep`); this module knows only lead times and costs.
A step that a nearer one undercuts, or that an equally cheap nearer one makes pointless, is
dominated and gets nothing. Lead times of a replica and of its GPU add up, as independent draws.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from policies.leadtime import LeadTime
from policies.types import COLD, SupplyStep, TierSpec


def stable_salt(name: str) -> int:
    """Return a seed for the draws of `name` that is the same in every process and whatever else there is."""
    return zlib.crc32(name.encode())


def undominated(ladder: tuple[TierSpec, ...]) -> tuple[TierSpec, ...]:
    """Return the tiers that no other undercuts in both holding cost and mean lead time, nearest first.

    Of two alike in both, the one named first stays. The first tier of a ladder (active) serves by
    itself and always stays; `cold` needs nothing held and stays as the last resort.
    """
    cost_lead = _cost_lead(ladder)
    kept = [i for i in range(1, len(ladder)) if ladder[i].name == COLD or not _beaten(i, cost_lead)]
    return (ladder[0], *(ladder[i] for i in sorted(kept, key=lambda i: cost_lead[i][1])))


def undominated_supply(supply: tuple[SupplyStep, ...]) -> tuple[SupplyStep, ...]:
    """Return the supply steps that no other undercuts in both holding cost and mean lead time, in their order.

    The first (free) stays, since a wake needs a GPU that is free; so does the last, which is unlimited.
    """
    cost_lead = _cost_lead(supply)
    ends = (0, len(supply) - 1)
    return tuple(step for i, step in enumerate(supply) if i in ends or not _beaten(i, cost_lead))


def _cost_lead(ladder: tuple[TierSpec, ...] | tuple[SupplyStep, ...]) -> list[tuple[float, float]]:
    return [(step.holding_cost, step.lead_time.mean_s) for step in ladder]


def _beaten(i: int, cost_lead: list[tuple[float, float]]) -> bool:
    """Return whether another step is no dearer and no farther than step i, and not merely a later equal."""
    cost, lead_s = cost_lead[i]
    return any(
        c <= cost and s <= lead_s and (c < cost or s < lead_s or j < i) for j, (c, s) in enumerate(cost_lead) if j != i
    )


@lru_cache(maxsize=4096)
def draws(lead_time: LeadTime, n_paths: int, salt: int) -> FloatArray:
    """`n_paths` draws of a lead time, (paths,) seconds, read-only, the same for the same arguments.

    Attempts are a stratified sample of `quantiles_s`, shuffled (systematic sampling: Cochran 1977,
    chapter 8). Of n paths floor(p n + u) fail, u uniform by `salt`, and take a stratified draw of
    `after_failure_s` on top; so each call has p n failures up to rounding, and over salts the mean
    share is p and the mean draw is `mean_s`. Ranks depend on `salt` and `n_paths` alone: a salt of
    its own makes a draw independent of another's, the same salt pairs nearer with farther tiers.
    """
    random = np.random.Generator(np.random.PCG64(salt))
    drawn = _stratified(lead_time.quantiles_s, random.permutation(n_paths), random.random())
    order, rounding, offset = random.permutation(n_paths), random.random(), random.random()
    failed = order[: int(lead_time.failure_probability * n_paths + rounding)]
    if failed.size and lead_time.after_failure_s:
        drawn[failed] += _stratified(lead_time.after_failure_s, np.arange(failed.size), offset)
    drawn.flags.writeable = False  # cached, so shared
    return drawn


def _stratified(quantiles_s: tuple[float, ...], ranks: NDArray[np.int64], offset: float) -> FloatArray:
    """One quantile for each rank 0, 1, ... in equal strata; `offset` in [0, 1) places all in theirs."""
    quantiles = np.asarray(quantiles_s)
    index = ((ranks + offset) / len(ranks) * len(quantiles)).astype(np.int64)
    drawn: FloatArray = quantiles[np.minimum(index, len(quantiles) - 1)]
    return drawn
