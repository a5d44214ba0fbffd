"""The GPUs of the pool, node by node, and the snapshots in the nodes' caches.

A GPU that no replica holds is spare, lent to preemptible work, or on its way back (reclaiming). A
replica needs all its GPUs on one node. Where the next GPU is a whole new node (`whole_nodes`), a
node that is not there counts as lent, and comes and goes as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.types import NodeObservation


@dataclass(slots=True, eq=False)
class Node:
    name: str
    gpus: int
    spare: int
    lent: int
    reclaiming: int
    cache_bytes: int
    snapshots: set[str] = field(default_factory=set)
    fetching: set[str] = field(default_factory=set)
    cached_bytes: int = 0

    def observation(self) -> NodeObservation:
        return NodeObservation(
            self.name,
            self.gpus,
            self.spare,
            self.lent,
            self.reclaiming,
            frozenset(self.snapshots),
            frozenset(self.fetching),
            self.cache_bytes - self.cached_bytes,
        )


class Nodes:
    """A fixed set of nodes; all GPUs start lent. Choices are deterministic: ties go to the first node."""

    def __init__(self, pool_gpus: int, gpus_per_node: int, cache_bytes: int, whole_nodes: bool) -> None:
        self.whole_nodes = whole_nodes
        self.all: list[Node] = []
        left = pool_gpus
        while left > 0:
            gpus = min(gpus_per_node, left)
            self.all.append(Node(f"node-{len(self.all):03d}", gpus, 0, gpus, 0, cache_bytes))
            left -= gpus
        self.by_name = {n.name: n for n in self.all}

    def with_spare(self, gpus: int, among: Iterable[Node] | None = None) -> Node | None:
        """The node with the fewest spare GPUs that still suffice (best fit keeps others whole)."""
        fitting = [n for n in (self.all if among is None else among) if n.spare >= gpus]
        return min(fitting, key=lambda n: n.spare, default=None)

    def to_reclaim_for(self, gpus: int, target: str) -> Node | None:
        """The node on which reclaiming makes room for a replica: its snapshot near, fewest to take back."""
        fitting = [n for n in self.all if n.spare + n.lent >= gpus and n.lent > 0]
        return min(fitting, key=lambda n: (target not in n.snapshots, -n.spare, -n.reclaiming, n.name), default=None)

    def take_back(self, wanted: int) -> list[tuple[Node, int]]:
        """Lent GPUs to reclaim as spares, gathered on as few nodes as possible: (node, GPUs)."""
        taken: list[tuple[Node, int]] = []
        order = sorted(self.all, key=lambda n: (-(n.spare + n.reclaiming), -len(n.snapshots), n.name))
        for node in order:
            if wanted <= 0:
                break
            if node.lent == 0 or (self.whole_nodes and node.lent < node.gpus):
                continue
            gpus = node.lent if self.whole_nodes else min(node.lent, wanted)
            taken.append((node, gpus))
            wanted -= gpus
        return taken

    def to_lend(self, wanted: int) -> list[tuple[Node, int]]:
        """Spare GPUs to lend, from the nodes with the fewest, so that whole groups stay: (node, GPUs)."""
        lent: list[tuple[Node, int]] = []
        for node in sorted(self.all, key=lambda n: (n.spare, n.name)):
            if wanted <= 0:
                break
            if self.whole_nodes and (node.spare < node.gpus or node.gpus > wanted):
                continue
            gpus = min(node.spare, wanted)
            if gpus:
                lent.append((node, gpus))
                wanted -= gpus
        return lent
