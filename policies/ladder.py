"""Ladders: which tiers are worth a place, and when the next replica or GPU could be here.

Any ladder can be described (`TierSpec`, `SupplyStep`); this module knows only lead times and costs.
A tier that a nearer one undercuts, or that an equally cheap nearer one makes pointless, is
dominated and gets nothing. Lead times of a replica and of its GPU add up, as independent draws.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from policies.arrays import FloatArray
from policies.types import COLD, LeadTime, SupplyStep, TierSpec


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


@lru_cache(maxsize=256)
def draws(lead_time: LeadTime, n_paths: int, salt: int) -> FloatArray:
    """`n_paths` draws of a lead time, (paths,) seconds: its quantiles in equal shares, shuffled.

    The shuffle depends on `salt` alone, so that two ladders' draws are independent of one another
    and the same input always gives the same decision.
    """
    ranks = (np.random.Generator(np.random.PCG64(salt)).permutation(n_paths) + 0.5) / n_paths
    quantiles = np.asarray(lead_time.quantiles_s)
    drawn: FloatArray = quantiles[np.minimum((ranks * len(quantiles)).astype(np.int64), len(quantiles) - 1)]
    drawn.flags.writeable = False  # cached, so shared
    return drawn


def next_supply(supply: tuple[SupplyStep, ...]) -> SupplyStep:
    """The step that brings a GPU once the free ones are gone; the last one if there is no other."""
    return supply[1] if len(supply) > 1 else supply[0]
