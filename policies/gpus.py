"""The idle GPUs of a pool, node by node, while an assignment gives them out.

Replicas need all their GPUs on one node. Among nodes that fit, the ones with the target's snapshot come first,
then the one with the fewest free GPUs (best fit keeps others whole for larger replicas), then by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.actions import ON_THE_WAY
from policies.keys import SnapshotKey
from policies.types import NodeObservation, SupplyStep, TargetSpec


@dataclass(slots=True)
class Node:
    """Working copy of one node's idle GPUs."""

    name: str
    gpus: int
    free: int
    lent: int
    coming: int
    """Reclaiming, and claimed by no pending replica."""
    snapshots: frozenset[SnapshotKey]
    absent: bool
    lent_before: int
    bought: bool = False
    returned: bool = False
    doubtful: int = 0
    """GPUs that a start waited for in vain: on their way, if at all."""

    @property
    def stays(self) -> bool:
        """Return whether the node is part of the pool once the actions are in force."""
        return self.bought if self.absent else not self.returned

    def near(self, spec: TargetSpec) -> bool:
        return spec.snapshot is not None and spec.snapshot in self.snapshots


class Gpus:
    """Mutable within one assignment: what is taken for one target is gone for the next."""

    def __init__(self, nodes: tuple[NodeObservation, ...]) -> None:
        """Begin from the observed `nodes`."""
        self.warm_on: frozenset[str] = frozenset()
        """Nodes of warm replicas that hold no GPU: they are not given back."""
        self.nodes = {
            n.name: Node(
                n.name, n.gpus, n.free_gpus, n.lent_gpus, n.reclaiming_gpus, n.snapshots, n.absent, n.lent_gpus
            )
            for n in nodes
        }
        self._with_free = {name for name, n in self.nodes.items() if n.free > 0}

    def take_free_node(self, spec: TargetSpec) -> str | None:
        """Take free GPUs for one replica of `spec` on the node that they fit best; None if there is none."""
        fitting = [n for name in self._with_free if (n := self.nodes[name]).free >= spec.gpus_per_replica]
        best = min(fitting, key=lambda n: (not n.near(spec), n.free, n.name), default=None)
        if best is None:
            return None
        self.take_free(best.name, spec.gpus_per_replica)
        return best.name

    def take_free(self, node: str, gpus: int) -> bool:
        """Take `gpus` free GPUs of `node`; False, and nothing taken, if it has fewer."""
        there = self.nodes.get(node)
        if there is None or there.free < gpus:
            return False
        there.free -= gpus
        if there.free == 0:
            self._with_free.discard(node)
        return True

    def release(self, node: str, gpus: int, *, doubtful: bool = False) -> None:
        """Return the GPUs of a replica of `node` that does not start after all: they are on their way for others.

        `doubtful` says that they were due long ago: they are claimed last.
        """
        if node in self.nodes and doubtful:
            self.nodes[node].doubtful += gpus
        elif node in self.nodes:
            self.nodes[node].coming += gpus

    def secure(self, spec: TargetSpec, supply: tuple[SupplyStep, ...]) -> tuple[str, str] | None:
        """Claim GPUs that are not free yet for one replica of `spec`; None if there are none.

        GPUs on their way already come first, then those lent to preemptible work, then a node to be bought, and last
        GPUs that another start waited for in vain.
        Returns their node and the supply step that is asked for them, ON_THE_WAY for none.
        """
        lends = next((s.name for s in supply[1:] if not s.whole_nodes), "")
        buys = next((s.name for s in supply[1:] if s.whole_nodes), "")
        choices = (
            (self._arriving, ON_THE_WAY),
            (self._lent, lends),
            (self._absent, buys),
            (self._doubtful, ON_THE_WAY),
        )
        for choose, step in choices:
            node = choose(spec)
            if node is not None:
                self._claim(node, spec.gpus_per_replica)
                return node.name, step
        return None

    def _arriving(self, spec: TargetSpec) -> Node | None:
        need = spec.gpus_per_replica
        fitting = [n for n in self.nodes.values() if n.coming > 0 and n.free + n.coming >= need]
        return min(fitting, key=lambda n: (not n.near(spec), n.free + n.coming, n.name), default=None)

    def _lent(self, spec: TargetSpec) -> Node | None:
        need = spec.gpus_per_replica
        fitting = [n for n in self.nodes.values() if n.lent > 0 and n.free + n.coming + n.lent >= need]
        return min(fitting, key=lambda n: (not n.near(spec), -n.free, -n.coming, n.name), default=None)

    def _absent(self, spec: TargetSpec) -> Node | None:
        fitting = [n for n in self.nodes.values() if n.absent and not n.bought and n.gpus >= spec.gpus_per_replica]
        return min(fitting, key=lambda n: n.name, default=None)

    def _doubtful(self, spec: TargetSpec) -> Node | None:
        need = spec.gpus_per_replica
        fitting = [n for n in self.nodes.values() if n.doubtful > 0 and n.free + n.coming + n.doubtful >= need]
        best = min(fitting, key=lambda n: (not n.near(spec), n.name), default=None)
        if best is not None:
            best.coming, best.doubtful = best.coming + best.doubtful, 0
        return best

    def _claim(self, node: Node, gpus: int) -> None:
        if node.absent and not node.bought:
            self.buy(node)
        self.reclaim(node, max(gpus - node.free - node.coming, 0))
        from_free = min(gpus, node.free)
        node.coming -= gpus - from_free
        if from_free:
            self.take_free(node.name, from_free)

    def buy(self, node: Node) -> None:
        """Order an absent node: all of its GPUs are on their way."""
        node.bought, node.coming = True, node.gpus

    def reclaim(self, node: Node, gpus: int) -> None:
        """Take `gpus` GPUs of `node` back from preemptible work."""
        node.lent -= gpus
        node.coming += gpus

    def lend(self, node: Node, gpus: int) -> None:
        """Lend `gpus` free GPUs of `node`."""
        node.free -= gpus
        node.lent += gpus

    def give_back(self, node: Node) -> None:
        """Return an idle node."""
        node.free = node.lent = 0
        node.returned = True

    def free(self) -> int:
        """Return how many GPUs are free."""
        return sum(n.free for n in self.nodes.values())

    def coming(self) -> int:
        """Return how many GPUs are on their way and claimed by no replica."""
        return sum(n.coming for n in self.nodes.values())

    def lent(self) -> int:
        """Return how many GPUs are lent."""
        return sum(n.lent for n in self.nodes.values())

    def origin(self, spec: TargetSpec, node: str) -> str:
        """Return the nearest tier from which a new replica of `spec` can come on `node`."""
        near = self.nodes[node].near(spec)
        possible = [t for t in spec.ladder[1:] if t.gpu_share == 0 and (near or not t.needs_snapshot)]
        return min(possible or spec.ladder[-1:], key=lambda t: t.lead_time.mean_s).name
