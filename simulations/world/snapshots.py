"""Snapshots in the nodes' caches: staged over the network, evicted at once.

Nodes that fetch at the same moment share the store's bandwidth, so a plan that moves many snapshots
waits for them longer.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.types import TargetSpec
from simulations.world.nodes import Node, Nodes

At = Callable[[float, Callable[[float], None]], None]
"""Calls a function when so many seconds from now have passed."""


class Snapshots:
    """Obeys `stage` and `evict`; `after` is the cluster's clock."""

    def __init__(self, nodes: Nodes, fetch_bytes_per_s: float, after: At) -> None:
        self._nodes = nodes
        self._fetch_bytes_per_s = fetch_bytes_per_s
        self._after = after

    def stage_everywhere(self, targets: tuple[TargetSpec, ...]) -> None:
        """Every snapshot on every node, as far as the caches hold them: where all rows begin."""
        for spec in targets:
            if any(t.needs_snapshot for t in spec.ladder):
                for node in self._nodes.all:
                    if node.cached_bytes + spec.artifact_bytes <= node.cache_bytes:
                        node.cached_bytes += spec.artifact_bytes
                        node.snapshots.add(spec.name)

    def stage(self, spec: TargetSpec, node: Node) -> None:
        """Begin to fetch, unless it lies there already or has no room."""
        if spec.name in node.snapshots | node.fetching or node.cached_bytes + spec.artifact_bytes > node.cache_bytes:
            return
        node.cached_bytes += spec.artifact_bytes
        node.fetching.add(spec.name)
        sharing = sum(len(n.fetching) for n in self._nodes.all)

        def fetched(at_s: float) -> None:
            if spec.name in node.fetching:
                node.fetching.discard(spec.name)
                node.snapshots.add(spec.name)

        self._after(spec.artifact_bytes * sharing / self._fetch_bytes_per_s, fetched)

    def evict(self, spec: TargetSpec, node: Node) -> None:
        """Drop it, fetched or not."""
        if spec.name in node.snapshots | node.fetching:
            node.snapshots.discard(spec.name)
            node.fetching.discard(spec.name)
            node.cached_bytes -= spec.artifact_bytes
