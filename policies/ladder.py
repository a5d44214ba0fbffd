"""Ladders: which tiers are worth a place, and when the next replica or GPU could be here.

Any ladder can be described (`TierSpec`, `SupplyStep`); this module knows only lead times and costs.
A tier that a nearer one undercuts, or that an equally cheap nearer one makes pointless, is
dominated and gets nothing. Lead times of a replica and of its GPU add up, as independent draws.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from policies.leadtime import LeadTime
from policies.types import COLD, SupplyStep, TierSpec


def undominated(ladder: tuple[TierSpec, ...]) -> tuple[TierSpec, ...]:
    """The tiers that no other undercuts in both holding cost and mean lead time, nearest first.

    Of two alike in both, the one named first stays. The first tier of a ladder (active) serves by
    itself and always stays; `cold` needs nothing held and stays as the last resort.
    """
    kept = [ladder[0]]
    for i, tier in enumerate(ladder[1:], start=1):
        others = [o for j, o in enumerate(ladder) if j != i]
        beaten = any(
            o.holding_cost <= tier.holding_cost
            and o.lead_time.mean_s <= tier.lead_time.mean_s
            and (
                o.holding_cost < tier.holding_cost or o.lead_time.mean_s < tier.lead_time.mean_s or ladder.index(o) < i
            )
            for o in others
        )
        if tier.name == COLD or not beaten:
            kept.append(tier)
    return (kept[0], *sorted(kept[1:], key=lambda t: t.lead_time.mean_s))


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


def next_supply(supply: tuple[SupplyStep, ...]) -> SupplyStep:
    """The step that brings a GPU once the free ones are gone; the last one if there is no other."""
    return supply[1] if len(supply) > 1 else supply[0]
