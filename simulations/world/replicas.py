r"""The life of one simulated replica, and the slots of the engine that replicas serve in.

    pending -> starting -> active -> draining -> gone
                  \-> parked          \-> parked -> starting ...

pending: bound to a node, waiting there for GPUs. starting: it holds GPUs and a restore or a cold start runs; `origin`
is the tier that it comes from, `goal` the tier that it is on its way to. parked: its process lives in host memory
and its GPUs are free for others.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.keys import TargetKey
from policies.types import ACTIVE, Phase, ReplicaView
from simulations.world.nodes import Node


@dataclass(slots=True, eq=False)
class Replica:
    """A replica as the world keeps it; `view` is what the cluster's cache shows of it."""

    name: str
    target: TargetKey
    node: Node
    since_s: float
    phase: Phase = Phase.PENDING
    origin: str = ""
    goal: str = ACTIVE
    waits_for: str = ""
    slot: int = -1
    view: ReplicaView | None = None

    def enter(self, phase: Phase, now_s: float, goal: str | None = None) -> None:
        """Move on to `phase`."""
        self.phase, self.since_s, self.view = phase, now_s, None
        if goal is not None:
            self.goal = goal

    def shown(self) -> ReplicaView:
        """Return the replica as an observation shows it; made anew only after a change."""
        if self.view is None:
            self.view = ReplicaView(
                self.name, self.target, self.phase, self.node.name, self.since_s, self.origin, self.goal, self.waits_for
            )
        return self.view


class Slots:
    """Numbers of free engine slots, lowest first, so that equal runs use equal slots."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))

    def take(self) -> int:
        """Return the lowest free slot, which is free no longer."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)

    def __len__(self) -> int:
        return len(self._free)
