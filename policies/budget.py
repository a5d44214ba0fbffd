"""A budget of GPUs and what goes short: spares first, then warm replicas, then active ones by worth.

The GPUs are given out one unit at a time in one order that does not depend on the budget, up to the first
unit that does not fit. So a larger budget never takes anything away, and the same input is always cut the
same way. The order:

1. targets whose demand is unknown, up to what they hold, which stays even beyond the budget: unknown is not zero;
2. minimums of active replicas, turn by turn (the first of every target before the second of any);
3. the others, where the next replica is worth most per GPU: the share of sample paths that need it times
   what a shortage costs. Of equals the target with the smaller part of what it wants comes first, so
   that equals go short in turn;
4. warm replicas in the same way, each at its share of a GPU;
5. idle GPUs, nearest supply step first.

It stops at the first unit that does not fit rather than go on to a smaller one: filling the crumbs would
let a larger budget, in which this unit fits, take the smaller one away again. At most one replica's GPUs
are left over so, and this plan keeps none of them idle. A replica larger than the whole budget can never run
and is passed over: it must not starve the other targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.keys import TargetKey
from policies.newsvendor import ROUNDING_REPLICAS, Samples, shortage_cost_per_s
from policies.types import TargetSpec

MICRO = 1_000_000
"""Units that a GPU is counted in: shares of a GPU are rounded up to millionths, so that sums are exact."""
ROUNDING_MICRO = 1e-3
"""What a product of floats may lie above a whole millionth without meaning the next one."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Allotment:
    """What fits: active replicas, warm replicas by tier, idle GPUs by supply step."""

    active: Mapping[TargetKey, int]
    warm: Mapping[TargetKey, Mapping[str, int]]
    supply: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Claims:
    """What is asked for in units of one cost: active replicas per target, then warm ones per target and tier."""

    row: Ints
    """Index of the target."""
    tier: tuple[str, ...]
    """Name of the warm tier, empty for active."""
    first: Ints
    """Replicas of the target that come before the first unit of this claim: the nearer ones."""
    count: Ints
    cost: Ints
    """Per unit, in millionths of a GPU."""


def allot(
    targets: tuple[TargetSpec, ...],
    wanted: Mapping[TargetKey, int],
    warm: Mapping[TargetKey, Mapping[str, int]],
    supply: Mapping[str, int],
    required: Samples,
    blind: Mapping[TargetKey, int],
    gpu_budget: int,
) -> Allotment:
    """Return what of `wanted`, `warm` and `supply` fits into `gpu_budget` GPUs.

    Always: active replicas at their GPUs, warm ones at `gpu_share` of theirs, and idle GPUs sum up to no more than
    the budget, unless what unknown targets hold alone exceeds it. `wanted` has every target's key (KeyError
    otherwise) and counts not below 0, `warm` tiers of the target's ladder (KeyError otherwise), nearest first,
    `supply` its steps, nearest first. `required` is (targets, paths) in the order of `targets`, the replicas that
    each path needs. `blind` has the targets whose demand is unknown, and how many replicas each holds: these stay
    whatever the budget.
    """
    claims = _claims(targets, wanted, warm)
    left = gpu_budget * MICRO - int((claims.count * claims.cost).sum())
    fits = claims.count if left >= 0 else _first_that_fit(targets, claims, required, blind, gpu_budget)
    active = {t.key: int(n) for t, n in zip(targets, fits[: len(targets)], strict=True)}
    kept: dict[TargetKey, dict[str, int]] = {t.key: {} for t in targets}
    for row, tier, n in list(zip(claims.row.tolist(), claims.tier, fits.tolist(), strict=True))[len(targets) :]:
        kept[targets[row].key][tier] = n
    idle: dict[str, int] = {}
    for step, gpus in supply.items():
        idle[step] = min(gpus, max(left, 0) // MICRO)
        left -= idle[step] * MICRO
    return Allotment(active, kept, idle)


def _claims(
    targets: tuple[TargetSpec, ...], wanted: Mapping[TargetKey, int], warm: Mapping[TargetKey, Mapping[str, int]]
) -> _Claims:
    tiers = [""] * len(targets)
    rows = [(i, 0, wanted[t.key], t.gpus_per_replica * MICRO) for i, t in enumerate(targets)]
    for i, target in enumerate(targets):
        nearer = wanted[target.key]
        for tier, replicas in warm.get(target.key, {}).items():
            tiers.append(tier)
            rows.append((i, nearer, replicas, _cost(target, tier)))
            nearer += replicas
    row, first, count, cost = np.array(rows, np.int64).reshape(-1, 4).T
    return _Claims(row, tuple(tiers), first, count, cost)


def _cost(target: TargetSpec, tier: str) -> int:
    """Return what one replica in `tier` takes from the budget, in millionths of a GPU."""
    spec = target.tier(tier)
    if spec is None:
        raise KeyError(f"{target.key} has no tier {tier}")
    return math.ceil(spec.gpu_share * target.gpus_per_replica * MICRO - ROUNDING_MICRO)


def _first_that_fit(
    targets: tuple[TargetSpec, ...], claims: _Claims, required: Samples, blind: Mapping[TargetKey, int], gpu_budget: int
) -> Ints:
    """Return the units of each claim that come before the first that does not fit, in the module's order."""
    claim = np.repeat(np.arange(len(claims.count)), claims.count)
    nth = np.arange(len(claim)) - np.repeat(np.cumsum(claims.count) - claims.count, claims.count)
    row, cost = claims.row[claim], claims.cost[claim]
    is_warm = claim >= len(targets)
    minimum = ~is_warm & (nth < np.array([t.min_replicas for t in targets])[row])
    unknown = np.array([t.key in blind for t in targets])[row]
    held = ~is_warm & (nth < np.array([blind.get(t.key, 0) for t in targets])[row])
    phase = np.where(is_warm, np.where(unknown, 3, 4), np.where(held, 0, np.where(minimum, 1, 2)))
    short_cost = np.array([shortage_cost_per_s(t) for t in targets])[row]
    needed = _needed_share(required, claims, row, claims.first[claim] + nth)
    worth = np.where(minimum | unknown, 0.0, needed * short_cost / np.maximum(cost, 1))
    part = np.where(minimum, nth, (nth + 1) / claims.count[claim])
    rank = np.argsort(np.argsort([str(t.key) for t in targets], kind="stable"), kind="stable")
    order = np.lexsort((claim, rank[row], cost, part, -worth, phase))
    order = order[held[order] | (cost[order] <= gpu_budget * MICRO)]
    fitting = int(np.searchsorted(np.cumsum(cost[order]), gpu_budget * MICRO, side="right"))
    fitting = max(fitting, int(held.sum()))
    return np.bincount(claim[order[:fitting]], minlength=len(claims.count))


def _needed_share(required: Samples, claims: _Claims, row: Ints, before: Ints) -> NDArray[np.float64]:
    """Return, per unit, the share of paths on which target `row` requires more than `before` replicas.

    One histogram of whole replicas over all targets serves every unit.
    """
    n_paths = max(required.shape[1], 1)
    most = np.zeros(len(required), np.int64)
    np.maximum.at(most, claims.row, claims.first + claims.count)
    begins = np.cumsum(most + 1) - (most + 1)
    whole = np.ceil(required - ROUNDING_REPLICAS).clip(0, most[:, None]).astype(np.int64)
    counts = np.bincount((whole + begins[:, None]).ravel(), minlength=int((most + 1).sum()))
    up_to = np.cumsum(counts)[begins[row] + before]
    share: NDArray[np.float64] = (n_paths * (row + 1) - up_to) / n_paths
    return share
