"""Actions: what shall be true of one replica, node or snapshot, by name.

An action states the wanted end, not a difference: "replica chat-3 shall run on node-001", "two GPUs of node-004
shall be lent". Applying one twice is applying it once, so a crash between deciding and acting, a retry and a
cache that lags are all survived by applying it again. `Action.name` is deterministic: two passes that want the
same thing ask for it under one name. `assignment.py` makes them; a cluster adapter obeys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from policies.keys import SnapshotKey, TargetKey
from policies.reasons import Reason


class ActionKind(StrEnum):
    """The verbs. Each says which fields of `Action` it uses."""

    STOP = "stop"
    """`replica` shall be gone: drained if it serves, cancelled if it starts, ended if it is parked. `gpus` is what a
    start held or waited for, and gives back at once; `goal` is `parked` for one that is parked or on its way to it."""
    RETAIN = "retain"
    """`replica`, which drains, shall serve again."""
    PROMOTE = "promote"
    """`replica`, which is warm on `node`, shall serve; no process starts or ends."""
    DEMOTE = "demote"
    """`replica`, which serves, shall drain and be parked; no process starts or ends."""
    START = "start"
    """`replica` shall exist on `node`, come from tier `origin` and reach tier `goal`; it takes `gpus` GPUs there, which
    come from supply step `waits_for` if they are not free."""
    SET_LENT = "set-lent"
    """Exactly `gpus` GPUs of `node` shall be lent to preemptible work."""
    ADD_NODE = "add-node"
    """`node` shall be part of the pool."""
    REMOVE_NODE = "remove-node"
    """`node`, which is idle, shall leave the pool."""
    STAGE = "stage"
    """`snapshot` shall lie in the cache of `node`."""
    EVICT = "evict"
    """`snapshot` shall not lie in the cache of `node`."""


SCALING = frozenset({ActionKind.STOP, ActionKind.RETAIN, ActionKind.PROMOTE, ActionKind.DEMOTE, ActionKind.START})
"""Kinds that change how many replicas a target has in a tier."""


ON_THE_WAY = "on-the-way"
"""What a start waits for whose GPUs were on their way before it was asked for."""


@dataclass(frozen=True, slots=True)
class Action:
    """One wanted end. Unused fields are empty; `deadline_s` is the moment from which a start is no capacity."""

    kind: ActionKind
    reason: Reason
    target: TargetKey | None = None
    replica: str = ""
    node: str = ""
    origin: str = ""
    goal: str = ""
    gpus: int = 0
    snapshot: SnapshotKey | None = None
    deadline_s: float = math.inf
    waits_for: str = ""

    @property
    def name(self) -> str:
        """Return the action's identity: the same wanted end has the same name in every pass."""
        what = self.replica or (str(self.snapshot) if self.snapshot else "")
        where = self.node if self.kind not in (ActionKind.STOP, ActionKind.RETAIN, ActionKind.DEMOTE) else ""
        space = self.target.namespace if self.target else ""
        return "/".join(part for part in (self.kind.value, space, what, where) if part)
