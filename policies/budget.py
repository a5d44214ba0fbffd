"""A budget of GPUs and who goes short: spares first, then by expected cost of a miss.

When the wanted replicas do not fit, every target keeps its minimum, and the GPUs that are left go
one replica at a time to where the next replica is worth most per GPU: the share of sample paths that
need it times what a shortage costs. Ties fall to the target named first, so that the same input is
always cut the same way, and a larger budget never takes a replica away.
"""

from __future__ import annotations

import heapq

import numpy as np

from policies.arrays import FloatArray
from policies.newsvendor import shortage_cost_per_s
from policies.types import TargetSpec


def share_gpus(
    targets: tuple[TargetSpec, ...], wanted: tuple[int, ...], required: tuple[FloatArray, ...], gpu_budget: int
) -> tuple[int, ...]:
    """Replicas per target within `gpu_budget`; `required[i]` is (paths,), capacity that i requires.

    Greedy by worth is exact up to the last replica where all replicas have as many GPUs, and at
    most one replica's GPUs off where they do not. Minimums are granted in the order of `targets`
    for as long as they fit.
    """
    if sum(w * t.gpus_per_replica for w, t in zip(wanted, targets, strict=True)) <= gpu_budget:
        return wanted
    given = [0] * len(targets)
    left = gpu_budget
    for i, t in enumerate(targets):
        given[i] = min(t.min_replicas, wanted[i], left // t.gpus_per_replica)
        left -= given[i] * t.gpus_per_replica
    ordered = [np.sort(r) for r in required]

    def worth(i: int) -> float:
        needed = len(ordered[i]) - int(np.searchsorted(ordered[i], given[i] + 1e-9, side="right"))
        return needed / max(len(ordered[i]), 1) * shortage_cost_per_s(targets[i]) / targets[i].gpus_per_replica

    queue = [(-worth(i), i) for i in range(len(targets)) if given[i] < wanted[i]]
    heapq.heapify(queue)
    while queue:
        _, i = heapq.heappop(queue)
        if targets[i].gpus_per_replica > left:
            # Stop here rather than skip to a smaller target: filling the crumbs would let a larger
            # budget, in which this replica fits, take the smaller target's replica away again.
            break
        given[i] += 1
        left -= targets[i].gpus_per_replica
        if given[i] < wanted[i]:
            heapq.heappush(queue, (-worth(i), i))
    return tuple(given)
