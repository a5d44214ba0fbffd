"""Shapes: GPUs count only in the groups that a replica needs, all of them on one node.

A replica of four GPUs starts on four idle GPUs of one node and on nothing less: four idle GPUs on four
nodes are a count and no capacity. `fitting` counts what idle GPUs are worth for one shape. What mixed
shapes ask of a reserve is said in `spares.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from policies.types import NodeObservation


def fitting(nodes: Iterable[NodeObservation], gpus: int) -> int:
    """Return how many replicas of `gpus` GPUs each the idle GPUs of `nodes` could take, node by node.

    Idle are GPUs that are free, lent or on their way to free. Raises ValueError unless `gpus` is positive.
    """
    if gpus < 1:
        raise ValueError(f"a replica needs at least one GPU, not {gpus}")
    return sum(node.idle_gpus // gpus for node in nodes)
