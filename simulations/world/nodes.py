"""The GPUs of the pool, node by node, and the snapshots in the nodes' caches.

A GPU that no replica holds is spare, lent to preemptible work, on its way back (reclaiming) or, with a node that the
pool does not have now, absent. What pending replicas of a node wait for is spoken for, as a scheduler would report.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.keys import SnapshotKey
from policies.types import NodeObservation


@dataclass(slots=True, eq=False)
class Node:
    """One node; counts are GPUs. `awaited` of them are spoken for by replicas that wait here."""

    name: str
    gpus: int
    spare: int
    lent: int
    reclaiming: int
    cache_bytes: int
    gpu_model: str = ""
    absent: bool = False
    awaited: int = 0
    snapshots: set[SnapshotKey] = field(default_factory=set)
    fetching: set[SnapshotKey] = field(default_factory=set)
    cached_bytes: int = 0

    def observation(self) -> NodeObservation:
        """Return the node as a scheduler reports it: awaited GPUs are neither free nor on their way for others."""
        free = max(self.spare - self.awaited, 0)
        coming = max(self.spare + self.reclaiming - self.awaited, 0) - free
        return NodeObservation(
            self.name,
            self.gpus,
            free,
            self.lent,
            coming,
            frozenset(self.snapshots),
            frozenset(self.fetching),
            self.cache_bytes - self.cached_bytes,
            self.gpu_model,
            self.absent,
        )


def make_nodes(
    pool_gpus: int, gpus_per_node: int, cache_bytes: int, gpu_model: str, *, absent: bool
) -> dict[str, Node]:
    """Return the pool's nodes by name; all GPUs begin lent, or absent where the pool buys its nodes."""
    nodes: dict[str, Node] = {}
    left = pool_gpus
    while left > 0:
        gpus = min(gpus_per_node, left)
        name = f"node-{len(nodes):03d}"
        nodes[name] = Node(name, gpus, 0, 0 if absent else gpus, 0, cache_bytes, gpu_model, absent)
        left -= gpus
    return nodes
