"""The simulated cluster behind the `Cluster` port: it obeys actions, lets time pass, and decides nothing.

Between two ticks the cluster knows of its own events only (a GPU taken back, a replica ready, a
snapshot fetched); the engines then serve each target's requests up to the tick, in parallel where
asked, since targets meet only through GPUs. What the engines find out (a drained replica) reaches
the cluster at the tick, and its exact time is put right in the ledger. What an action does is in `obeying.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np

from autoscaler.outcomes import Outcome
from autoscaler.ports import ClusterView
from policies.actions import Action
from policies.keys import TargetKey
from policies.leadtime import LeadTime
from policies.types import (
    ACTIVE,
    COLD,
    PARKED,
    NodeObservation,
    Phase,
    ReplicaView,
    SupplyStep,
    TargetSpec,
)
from simulations.world.ledger import Ledger
from simulations.world.nodes import Node, make_nodes
from simulations.world.obeying import VERBS
from simulations.world.replicas import Replica, Slots
from simulations.world.serving import Serving
from simulations.world.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """The pool and its physics. `park_s` is how long parking a replica takes."""

    targets: tuple[TargetSpec, ...]
    supply: tuple[SupplyStep, ...]
    pool_gpus: int
    gpus_per_node: int
    gpu_model: str
    cache_bytes: int
    fetch_bytes_per_s: float
    seed: int
    park_s: float = 0.6

    @property
    def buys(self) -> bool:
        """Return whether nodes come and go, so that none is there at first."""
        return any(step.whole_nodes for step in self.supply)


class SimulatedCluster:
    """Implements the `Cluster` port; `advance` is the simulator's own way to move time."""

    def __init__(self, config: WorldConfig, serving: dict[TargetKey, Serving], ledger: Ledger, jobs: int = 1) -> None:
        self.config = config
        self.specs = {spec.key: spec for spec in config.targets}
        self.serving = serving
        self.ledger = ledger
        self.now_s = 0.0
        self.nodes = make_nodes(
            config.pool_gpus, config.gpus_per_node, config.cache_bytes, config.gpu_model, absent=config.buys
        )
        self.replicas: dict[TargetKey, dict[str, Replica]] = {key: {} for key in self.specs}
        self.starts: dict[TargetKey, dict[str, int]] = {key: {} for key in self.specs}
        self._views: dict[TargetKey, tuple[ReplicaView, ...]] = {}
        self._node_views: dict[str, NodeObservation] = {}
        self._seen: ClusterView | None = None
        self._slots = {key: Slots(s.slots) for key, s in serving.items()}
        self._by_slot: dict[TargetKey, dict[int, Replica]] = {key: {} for key in self.specs}
        self.pending: dict[str, list[Replica]] = {name: [] for name in self.nodes}
        """Replicas that wait on a node for GPUs, first come first served."""
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = count()
        self._random = np.random.default_rng(np.random.SeedSequence([config.seed, 0x77]))
        self._at_once = False
        self._pool = ThreadPoolExecutor(jobs) if jobs > 1 and len(serving) > 1 else None
        self._activations: dict[TargetKey, list[tuple[float, int]]] = {key: [] for key in self.specs}
        sizes = {spec.snapshot: spec.artifact_bytes for spec in config.targets if spec.snapshot is not None}
        self.snapshots = Snapshots(self.nodes, sizes, config.fetch_bytes_per_s, self.after, self.node_changed)

    # -- the Cluster port -------------------------------------------------------------------------

    def observe(self, now_s: float) -> ClusterView:
        """Return what is there; the same object until something changes or time passes."""
        if self._seen is None:
            for key, members in self.replicas.items():
                if key not in self._views:
                    self._views[key] = tuple(r.shown() for r in members.values())
            for name, node in self.nodes.items():
                if name not in self._node_views:
                    self._node_views[name] = node.observation()
            running = {key: self._running(key) for key in self.specs}
            nodes = tuple(self._node_views.values())
            self._seen = ClusterView(self.now_s, dict(self._views), running, nodes, self.config.pool_gpus)
        return self._seen

    def _running(self, key: TargetKey) -> dict[str, float]:
        per_slot = self.serving[key].running()
        return {replica.name: float(per_slot[slot]) for slot, replica in self._by_slot[key].items()}

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        """Obey each action in order."""
        return {action.name: VERBS[action.kind](self, action) for action in actions}

    # -- time -------------------------------------------------------------------------------------

    def advance(self, until_s: float) -> None:
        """Let everything happen up to `until_s`: own events first, then the engines."""
        self._seen = None
        self._happen(until_s)
        work = [(s, tuple(self._activations[key]), until_s) for key, s in self.serving.items()]
        if self._pool is not None:
            list(self._pool.map(lambda w: w[0].advance(w[1], w[2]), work))
        else:
            for serving, activations, until in work:
                serving.advance(activations, until)
        for begun in self._activations.values():
            begun.clear()
        for key, serving in self.serving.items():
            for slot, empty_s in serving.take_drained():
                self._drained(key, slot, empty_s)

    def _happen(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            at_s, _, happen = heapq.heappop(self._events)
            self.ledger.advance(at_s)
            self.now_s = at_s
            happen(at_s)
        self.ledger.advance(until_s)
        self.now_s = until_s

    def settle(self, actions: tuple[Action, ...]) -> None:
        """Obey `actions` with lead times of zero, before the first tick: what serves from the start."""
        self._at_once = True
        self.apply(actions, self.now_s)
        self._happen(self.now_s)
        self._at_once = False
        for key, begun in self._activations.items():
            for _, slot in begun:
                self.serving[key].activate_now(slot)
            begun.clear()
        for starts in self.starts.values():
            starts.clear()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def after(self, seconds: float, happen: Callable[[float], None]) -> None:
        """Call `happen` once so many seconds from now have passed."""
        heapq.heappush(self._events, (self.now_s + seconds, next(self._sequence), happen))

    def draw(self, quantiles_s: tuple[float, ...]) -> float:
        """Return one of equally likely lead times, in seconds."""
        return 0.0 if self._at_once else quantiles_s[int(self._random.random() * len(quantiles_s))]

    def draw_any(self, lead_time: LeadTime) -> float:
        """Return one lead time with its failures and fallbacks, in seconds."""
        return 0.0 if self._at_once else lead_time.at(self._random.random())

    # -- changes, each with its trace in ledger and views ------------------------------------------

    def node_changed(self, node: Node) -> None:
        """Forget what observations showed of `node`."""
        self._node_views.pop(node.name, None)
        self._seen = None

    def replica_changed(self, key: TargetKey) -> None:
        """Forget what observations showed of a target's replicas."""
        self._views.pop(key, None)
        self._seen = None

    def enter(self, replica: Replica, phase: Phase, goal: str | None = None) -> None:
        """Move a replica on to `phase`."""
        replica.enter(phase, self.now_s, goal)
        self.replica_changed(replica.target)

    def retarget(self, replica: Replica, goal: str) -> None:
        """Let a replica go on in its phase towards another goal."""
        if replica.goal != goal:
            replica.goal, replica.view = goal, None
            self.replica_changed(replica.target)

    def remove(self, replica: Replica) -> None:
        """Forget a replica that is gone."""
        del self.replicas[replica.target][replica.name]
        self.replica_changed(replica.target)

    def move(self, target: TargetKey | None, gpus: int, source: str, sink: str) -> None:
        """Book `gpus` GPUs from one state to another."""
        self.ledger.move(gpus, self.ledger.slot(target, source), self.ledger.slot(target, sink))

    def count_start(self, target: TargetKey, origin: str) -> None:
        """Count a start under the tier that it comes from."""
        if self.now_s >= self.ledger.since_s:
            self.starts[target][origin] = self.starts[target].get(origin, 0) + 1

    def begin_pending(self, node: Node) -> None:
        """Begin the replicas that wait on `node`, first come first served, while its spare GPUs last."""
        waiting = self.pending[node.name]
        while waiting and node.spare >= self.specs[waiting[0].target].gpus_per_replica:
            replica = waiting.pop(0)
            node.awaited -= self.specs[replica.target].gpus_per_replica
            self.begin(replica)

    def begin(self, replica: Replica) -> None:
        """Give a replica its GPUs and let its restore or cold start run."""
        spec = self.specs[replica.target]
        replica.node.spare -= spec.gpus_per_replica
        self.node_changed(replica.node)
        self.move(replica.target, spec.gpus_per_replica, "spare", "starting")
        self.enter(replica, Phase.STARTING)
        self.count_start(replica.target, replica.origin)
        self._attempt(replica)

    def _lead_time(self, replica: Replica) -> LeadTime:
        """Return the lead time of the tier that a replica starts from; starts from others are refused."""
        return next(t.lead_time for t in self.specs[replica.target].ladder if t.name == replica.origin)

    def _attempt(self, replica: Replica) -> None:
        """Let an attempt run; one that fails is followed, in the same place, by its fallback."""
        begun_s, lead_time = self.now_s, self._lead_time(replica)
        fails = not self._at_once and self._random.random() < lead_time.failure_probability
        parking_s = self.config.park_s if replica.goal == PARKED and not fails else 0.0
        ends = self._failed if fails else self._ready
        self.after(self.draw(lead_time.quantiles_s) + parking_s, lambda at_s: ends(replica, begun_s))

    def _failed(self, replica: Replica, begun_s: float) -> None:
        """Begin the cold start that follows a failed restore; a cold start that fails is tried again."""
        if self._still_runs(replica, begun_s):
            after_failure_s = self._lead_time(replica).after_failure_s
            replica.origin = COLD
            self.enter(replica, Phase.STARTING)
            again_s = self.now_s
            self.after(self.draw(after_failure_s), lambda at_s: self._ready(replica, again_s))

    def _still_runs(self, replica: Replica, begun_s: float) -> bool:
        """Return whether the attempt that began then is still wanted."""
        present = self.replicas[replica.target].get(replica.name) is replica
        return present and replica.phase is Phase.STARTING and replica.since_s == begun_s

    def _ready(self, replica: Replica, begun_s: float) -> None:
        if not self._still_runs(replica, begun_s):
            return
        if replica.goal == PARKED:
            self.parked(replica, "starting")
            return
        self.move(replica.target, self.specs[replica.target].gpus_per_replica, "starting", "active")
        self.enter(replica, Phase.ACTIVE)
        replica.slot = self._slots[replica.target].take()
        self._by_slot[replica.target][replica.slot] = replica
        self._activations[replica.target].append((self.now_s, replica.slot))

    def _drained(self, key: TargetKey, slot: int, empty_s: float) -> None:
        replica = self._by_slot[key].pop(slot)
        self._slots[key].give_back(slot)
        replica.slot = -1
        if replica.goal == PARKED:
            self.after(self.config.park_s, lambda at_s: self._parked_or_stopped(replica))
            return
        gpus = self.specs[key].gpus_per_replica
        draining, spare = self.ledger.slot(key, "draining"), self.ledger.slot(key, "spare")
        self.ledger.correct(gpus * (self.now_s - empty_s), draining, spare, empty_s)
        self.free_gpus(replica, "draining")
        self.remove(replica)

    def _parked_or_stopped(self, replica: Replica) -> None:
        """Park a drained replica, unless it was stopped while it was being parked."""
        if replica.goal == PARKED:
            self.parked(replica, "draining")
        else:
            self.free_gpus(replica, "draining")
            self.remove(replica)

    def parked(self, replica: Replica, state: str) -> None:
        """Park a replica: its GPUs are free, its process stays."""
        self.free_gpus(replica, state)
        self.enter(replica, Phase.PARKED, goal=ACTIVE)

    def free_gpus(self, replica: Replica, state: str) -> None:
        """Take a replica's GPUs out of `state`; they are spare, or go to who waits on the node."""
        gpus = self.specs[replica.target].gpus_per_replica
        replica.node.spare += gpus
        self.move(replica.target, gpus, state, "spare")
        self.node_changed(replica.node)
        self.begin_pending(replica.node)
