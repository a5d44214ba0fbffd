"""The life of one simulated replica, and the slots of the engine that replicas serve in.

    pending -> reclaiming -> starting -> active -> draining -> gone
                                      \\-> parked -> starting ...

pending: no GPU in sight yet. reclaiming: its GPUs are being taken back from preemptible work.
starting: it holds GPUs and a restore or a cold start runs; `origin` is the tier that it comes from.
parked: its process lives in host memory and its GPUs are free for others.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulations.world.nodes import Node

PENDING = "pending"
RECLAIMING = "reclaiming"
STARTING = "starting"
ACTIVE = "active"
DRAINING = "draining"
PARKED = "parked"
GONE = "gone"


@dataclass(slots=True, eq=False)
class Replica:
    target: int
    phase: str
    node: Node | None = None
    slot: int = -1
    origin: str = ""
    awaited_gpus: int = 0
    """GPUs still to be reclaimed before the start can begin."""
    to_park: bool = False
    """Parks when it has started, instead of serving."""


class Slots:
    """Numbers of free engine slots, lowest first, so that equal runs use equal slots."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))

    def take(self) -> int:
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        self._free.append(slot)

    def __len__(self) -> int:
        return len(self._free)
