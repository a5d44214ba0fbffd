"""Which snapshots lie on which nodes: each target's artifacts near the GPUs it may have to wake on.

A staged artifact serves any number of wakes on its node, so what matters is that enough of the
GPUs that could become spare lie on nodes with the artifact. Targets are served in the order of what
their wakes are worth per byte; each gets nodes until their GPUs cover its possible wakes twice over
(one node may be taken by others), those that hold the artifact already first, since fetching it
again takes tens of seconds. What is left of the caches then goes round once more, so that in a
fleet whose caches hold everything, everything is everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.keys import SnapshotKey
from policies.types import NodeObservation, TargetSpec

COVER_TIMES = 2.0
"""GPUs near an artifact per GPU that the target may need: others compete for the same spares."""


@dataclass(frozen=True, slots=True)
class WakeNeed:
    """What placement must know of one target: GPUs it may wake on, and what missing them costs."""

    target: TargetSpec
    gpus: float
    worth: float
    """Expected cost of not waking, GPU-seconds per second."""


def place_snapshots(
    needs: tuple[WakeNeed, ...], nodes: tuple[NodeObservation, ...], cache_bytes: dict[str, int]
) -> dict[str, tuple[SnapshotKey, ...]]:
    """Artifacts per node within each node's cache (`cache_bytes` by node name), most wanted first."""
    room = {n.name: cache_bytes.get(n.name, 0) for n in nodes}
    chosen: dict[str, list[SnapshotKey]] = {n.name: [] for n in nodes}
    ranked = sorted(needs, key=lambda w: (-w.worth / max(w.target.artifact_bytes, 1), w.target.key))
    for limited in (True, False):
        for need in ranked:
            _place(need, nodes, room, chosen, limited)
    return {name: tuple(targets) for name, targets in chosen.items()}


def _place(
    need: WakeNeed,
    nodes: tuple[NodeObservation, ...],
    room: dict[str, int],
    chosen: dict[str, list[SnapshotKey]],
    limited: bool,
) -> None:
    name = need.target.snapshot
    covered = 0.0
    wanted = need.gpus * COVER_TIMES
    # Nodes that hold it come first, then those with the most GPUs that could wake it.
    order = sorted(
        nodes,
        key=lambda n: (name not in n.snapshots and name not in n.fetching, -(n.free_gpus + n.lent_gpus), n.name),
    )
    for node in order:
        if limited and covered >= wanted:
            return
        if node.gpus < need.target.gpus_per_replica:
            continue
        if name in chosen[node.name]:
            covered += node.gpus
            continue
        if room[node.name] >= need.target.artifact_bytes:
            chosen[node.name].append(name)
            room[node.name] -= need.target.artifact_bytes
            covered += node.gpus
