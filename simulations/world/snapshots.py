"""Snapshots in the nodes' caches: staged over the network, evicted at once.

Nodes that fetch at the same moment share the store's bandwidth, so a plan that moves many snapshots
waits for them longer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from policies.keys import SnapshotKey
from policies.types import TargetSpec
from simulations.world.nodes import Node

At = Callable[[float, Callable[[float], None]], None]
"""Calls a function when so many seconds from now have passed."""


class Snapshots:
    """Obeys `stage` and `evict`; `after` is the cluster's clock, `changed` is called with each node that changes."""

    def __init__(
        self,
        nodes: dict[str, Node],
        sizes_bytes: dict[SnapshotKey, int],
        fetch_bytes_per_s: float,
        after: At,
        changed: Callable[[Node], None],
    ) -> None:
        self._nodes = nodes
        self._sizes_bytes = sizes_bytes
        self._fetch_bytes_per_s = fetch_bytes_per_s
        self._after = after
        self._changed = changed
        self._fetches = count()
        self._current: dict[tuple[str, SnapshotKey], int] = {}
        """The number of the fetch that is under way, by node and snapshot."""

    def exists(self, snapshot: SnapshotKey) -> bool:
        """Return whether there is such a snapshot in the store."""
        return snapshot in self._sizes_bytes

    def stage_everywhere(self, targets: tuple[TargetSpec, ...]) -> None:
        """Put every snapshot on every node, as far as the caches hold them: where all rows begin."""
        for spec in targets:
            if spec.snapshot is None:
                continue
            for node in self._nodes.values():
                if node.cached_bytes + spec.artifact_bytes <= node.cache_bytes:
                    node.cached_bytes += spec.artifact_bytes
                    node.snapshots.add(spec.snapshot)
                    self._changed(node)

    def stage(self, snapshot: SnapshotKey, node: Node) -> bool:
        """Begin to fetch, unless it lies there already; False if the cache has no space for it."""
        if snapshot in node.snapshots | node.fetching:
            return True
        size_bytes = self._sizes_bytes[snapshot]
        if node.cached_bytes + size_bytes > node.cache_bytes:
            return False
        node.cached_bytes += size_bytes
        node.fetching.add(snapshot)
        self._changed(node)
        sharing = sum(len(n.fetching) for n in self._nodes.values())
        fetch = self._current[node.name, snapshot] = next(self._fetches)

        def fetched(at_s: float) -> None:
            # A fetch that was evicted meanwhile does not complete a later one.
            if snapshot in node.fetching and self._current[node.name, snapshot] == fetch:
                node.fetching.discard(snapshot)
                node.snapshots.add(snapshot)
                self._changed(node)

        self._after(size_bytes * sharing / self._fetch_bytes_per_s, fetched)
        return True

    def evict(self, snapshot: SnapshotKey, node: Node) -> None:
        """Drop it, fetched or not."""
        if snapshot in node.snapshots | node.fetching:
            node.snapshots.discard(snapshot)
            node.fetching.discard(snapshot)
            node.cached_bytes -= self._sizes_bytes[snapshot]
            self._changed(node)
