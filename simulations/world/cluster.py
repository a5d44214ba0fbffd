"""The simulated cluster behind the `Cluster` port: it obeys actions and lets time pass.

Between two ticks the cluster knows of its own events only (a GPU reclaimed, a replica ready, a
snapshot fetched); the engines then serve each target's requests up to the tick, in parallel where
asked, since targets meet only through GPUs. What the engines find out (a drained replica) reaches
the cluster at the tick, and its exact time is put right in the ledger.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from autoscaler.ports import ClusterView, TargetState
from policies.types import ACTIVE as ACTIVE_TIER
from policies.types import PARKED as PARKED_TIER
from policies.types import Action, NodeObservation, SupplyStep, TargetSpec, TierSpec
from simulations.world.ledger import Ledger
from simulations.world.nodes import Node, Nodes
from simulations.world.replicas import ACTIVE, DRAINING, GONE, PARKED, PENDING, STARTING, Replica, Slots
from simulations.world.serving import Serving
from simulations.world.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """The pool and its physics. `park_s` is how long parking a fresh replica takes."""

    targets: tuple[TargetSpec, ...]
    supply: SupplyStep
    """Where a GPU comes from that is not spare."""
    pool_gpus: int
    gpus_per_node: int
    cache_bytes: int
    whole_nodes: bool
    fetch_bytes_per_s: float
    seed: int
    park_s: float = 0.6


class SimulatedCluster:
    """Implements the `Cluster` port; `advance` is the simulator's own door to time."""

    def __init__(self, config: WorldConfig, serving: tuple[Serving, ...], ledger: Ledger, jobs: int = 1) -> None:
        self.config = config
        self.serving = serving
        self.ledger = ledger
        self.now_s = 0.0
        self.nodes = Nodes(config.pool_gpus, config.gpus_per_node, config.cache_bytes, config.whole_nodes)
        self.snapshots = Snapshots(
            self.nodes, config.fetch_bytes_per_s, lambda seconds, happen: self._at(self.now_s + seconds, happen)
        )
        self.replicas: list[list[Replica]] = [[] for _ in config.targets]
        self.starts: list[dict[str, int]] = [{} for _ in config.targets]
        self._slots = [Slots(s.slots) for s in serving]
        self._by_slot: list[dict[int, Replica]] = [{} for _ in config.targets]
        self._pending: list[Replica] = []
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = count()
        self._random = np.random.default_rng(np.random.SeedSequence([config.seed, 0x77]))
        self._pool = ThreadPoolExecutor(jobs) if jobs > 1 and len(serving) > 1 else None
        self._activations: list[list[tuple[float, int]]] = [[] for _ in config.targets]

    # -- the Cluster port -------------------------------------------------------------------------

    def observe(self, now_s: float) -> ClusterView:
        targets = []
        for replicas in self.replicas:
            phases = [r.phase for r in replicas if not r.to_park]
            ready = {ACTIVE_TIER: phases.count(ACTIVE)}
            parked = phases.count(PARKED) + sum(r.to_park for r in replicas)
            if parked:
                ready[PARKED_TIER] = parked
            targets.append(TargetState(ready, phases.count(STARTING) + phases.count(PENDING), phases.count(DRAINING)))
        return ClusterView(tuple(targets), self._observed_nodes(), self.config.pool_gpus)

    def _observed_nodes(self) -> tuple[NodeObservation, ...]:
        """Nodes as a scheduler would report them: GPUs that pending replicas wait for are spoken for."""
        spoken_for = self._promised()[0]
        seen = []
        for node in self.nodes.all:
            told = node.observation()
            promised = spoken_for.get(node.name, 0)
            if promised:
                spare = min(promised, told.free_gpus)
                told = replace(
                    told,
                    free_gpus=told.free_gpus - spare,
                    reclaiming_gpus=max(told.reclaiming_gpus - promised + spare, 0),
                )
            seen.append(told)
        return tuple(seen)

    def _promised(self) -> tuple[dict[str, int], list[Replica]]:
        """GPUs per node that will go to pending replicas, first come first served, and who gets none."""
        promised: dict[str, int] = {}
        without = []
        for replica in self._pending:
            gpus = self.config.targets[replica.target].gpus_per_replica
            node = next((n for n in self.nodes.all if n.spare + n.reclaiming - promised.get(n.name, 0) >= gpus), None)
            if node is None:
                without.append(replica)
            else:
                promised[node.name] = promised.get(node.name, 0) + gpus
        return promised, without

    def apply(self, actions: tuple[Action, ...], now_s: float) -> None:
        index = {t.name: i for i, t in enumerate(self.config.targets)}
        for action in actions:
            if action.verb == "start":
                self._start(index[action.target], action.count)
            elif action.verb == "stop":
                self._stop(index[action.target], action.count)
            elif action.verb == "park":
                self._park(index[action.target], action.count)
            elif action.verb == "unpark_release":
                self._release_parked(index[action.target], action.count)
            elif action.verb == "reclaim":
                for node, gpus in self.nodes.take_back(action.count):
                    self._reclaim(node, gpus)
            elif action.verb == "lend":
                self._lend(action.count)
            elif action.verb == "stage":
                self.snapshots.stage(self.config.targets[index[action.target]], self.nodes.by_name[action.node])
            elif action.verb == "evict":
                self.snapshots.evict(self.config.targets[index[action.target]], self.nodes.by_name[action.node])
            else:
                raise ValueError(f"the simulated cluster knows no action {action.verb!r}")

    # -- time -------------------------------------------------------------------------------------

    def advance(self, until_s: float) -> None:
        """Let everything happen up to `until_s`: own events first, then the engines."""
        while self._events and self._events[0][0] <= until_s:
            at_s, _, happen = heapq.heappop(self._events)
            self.ledger.advance(at_s)
            self.now_s = at_s
            happen(at_s)
        self.ledger.advance(until_s)
        self.now_s = until_s
        work = [(s, tuple(a), until_s) for s, a in zip(self.serving, self._activations, strict=True)]
        if self._pool is not None:
            list(self._pool.map(lambda w: w[0].advance(w[1], w[2]), work))
        else:
            for serving, activations, until in work:
                serving.advance(activations, until)
        for begun in self._activations:
            begun.clear()
        for i, serving in enumerate(self.serving):
            for slot, empty_s in serving.take_drained():
                self._drained(i, slot, empty_s)
        self._start_pending()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def _at(self, at_s: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._sequence), happen))

    def _draw(self, tier: TierSpec | SupplyStep) -> float:
        return tier.lead_time.at(self._random.random())

    # -- replicas ---------------------------------------------------------------------------------

    def preload(self, target: int, replicas: int) -> None:
        """Replicas that serve from the start, before any policy has acted."""
        for _ in range(replicas):
            gpus = self.config.targets[target].gpus_per_replica
            node = self.nodes.to_reclaim_for(gpus, self.config.targets[target].name)
            if node is None:
                return
            taken = node.gpus if self.nodes.whole_nodes and node.lent == node.gpus else gpus - node.spare
            if taken > 0:
                node.lent -= taken
                node.spare += taken
                self._move(target, taken, "lent", "spare")
            replica = Replica(target, STARTING, node)
            self.replicas[target].append(replica)
            self._hold(replica, node)
            self._ready(replica, self.now_s)
            self.serving[target].activate_now(replica.slot)
            self._activations[target].clear()

    def _start(self, target: int, wanted: int) -> None:
        wanted -= self._undrain(target, wanted)
        for _ in range(wanted):
            replica = Replica(target, PENDING)
            self.replicas[target].append(replica)
            self._pending.append(replica)
        self._start_pending()

    def _undrain(self, target: int, wanted: int) -> int:
        """A replica that still drains serves again at once: the nearest tier of all."""
        draining = [r for r in self.replicas[target] if r.phase == DRAINING][:wanted]
        for replica in draining:
            self.serving[target].undrain(replica.slot)
            self._count_start(target, DRAINING)
            self._phase(replica, ACTIVE)
        return len(draining)

    def _start_pending(self) -> None:
        """Give spare GPUs to pending replicas, first come first served, then secure GPUs for the rest."""
        if not self._pending:
            return
        waiting = []
        for replica in self._pending:
            node = self._node_for(replica)
            if node is None:
                waiting.append(replica)
            else:
                self._begin(replica, node)
        self._pending = waiting
        self._secure_pending()

    def _node_for(self, replica: Replica) -> Node | None:
        spec = self.config.targets[replica.target]
        parked_on = [r.node for r in self.replicas[replica.target] if r.phase == PARKED and r.node is not None]
        if parked_on and not replica.to_park:
            node = self.nodes.with_spare(spec.gpus_per_replica, parked_on)
            if node is not None:
                return node
        near = [n for n in self.nodes.all if spec.name in n.snapshots]
        return self.nodes.with_spare(spec.gpus_per_replica, near) or self.nodes.with_spare(spec.gpus_per_replica)

    def _secure_pending(self) -> None:
        """Reclaim for pending replicas that no GPU on its way will serve."""
        promised, without = self._promised()
        for replica in without:
            spec = self.config.targets[replica.target]
            node = self.nodes.to_reclaim_for(spec.gpus_per_replica, spec.name)
            if node is None:
                continue
            at_hand = max(node.spare + node.reclaiming - promised.get(node.name, 0), 0)
            wanted = max(spec.gpus_per_replica - at_hand, 0)
            taken = node.lent if self.nodes.whole_nodes else min(wanted, node.lent)
            if taken:
                self._reclaim(node, taken)
            promised[node.name] = promised.get(node.name, 0) + spec.gpus_per_replica

    def _begin(self, replica: Replica, node: Node) -> None:
        tier = self._tier(replica, node)
        if tier.name == PARKED_TIER:
            parked = next(r for r in self.replicas[replica.target] if r.phase == PARKED and r.node is node)
            self.replicas[replica.target].remove(parked)
        self._hold(replica, node)
        replica.origin = tier.name
        self._count_start(replica.target, tier.name)
        extra_s = self.config.park_s if replica.to_park else 0.0
        self._at(self.now_s + self._draw(tier) + extra_s, lambda at_s: self._ready(replica, at_s))

    def _tier(self, replica: Replica, node: Node) -> TierSpec:
        """The nearest rung from which this replica can come on this node."""
        spec = self.config.targets[replica.target]
        parked_here = not replica.to_park and any(
            r.phase == PARKED and r.node is node for r in self.replicas[replica.target]
        )
        possible = [
            t
            for t in spec.ladder[1:]
            if (t.name == PARKED_TIER and parked_here)
            or (t.gpu_share == 0 and (not t.needs_snapshot or spec.name in node.snapshots))
        ]
        return min(possible, key=lambda t: t.lead_time.mean_s)

    def _hold(self, replica: Replica, node: Node) -> None:
        gpus = self.config.targets[replica.target].gpus_per_replica
        node.spare -= gpus
        replica.node = node
        self._move(replica.target, gpus, "spare", "starting")
        replica.phase = STARTING

    def _ready(self, replica: Replica, at_s: float) -> None:
        if replica.phase != STARTING:  # cancelled meanwhile
            return
        if replica.to_park:
            self._free_gpus(replica, "starting")
            replica.phase, replica.to_park = PARKED, False
            return
        self._phase(replica, ACTIVE)
        replica.slot = self._slots[replica.target].take()
        self._by_slot[replica.target][replica.slot] = replica
        self._activations[replica.target].append((at_s, replica.slot))

    def _stop(self, target: int, wanted: int) -> None:
        """Pending replicas go first, then the youngest that still start, then the least loaded drain."""
        alive = self.replicas[target]
        for phase in (PENDING, STARTING):
            for replica in [r for r in reversed(alive) if r.phase == phase and not r.to_park][:wanted]:
                wanted -= 1
                self._cancel(replica)
        active = [r for r in alive if r.phase == ACTIVE]
        running = self.serving[target].running()
        for replica in sorted(active, key=lambda r: (running[r.slot], -r.slot))[:wanted]:
            self._phase(replica, DRAINING)
            self.serving[target].drain(replica.slot)

    def _cancel(self, replica: Replica) -> None:
        if replica.phase == PENDING:
            self._pending.remove(replica)
        else:
            self._free_gpus(replica, "starting")
        self._remove(replica)

    def _drained(self, target: int, slot: int, empty_s: float) -> None:
        replica = self._by_slot[target].pop(slot)
        self._slots[target].give_back(slot)
        gpus = self.config.targets[target].gpus_per_replica
        self.ledger.correct(
            gpus * (self.now_s - empty_s),
            self.ledger.slot(target, "draining"),
            self.ledger.slot(target, "spare"),
            empty_s,
        )
        self._free_gpus(replica, "draining")
        self._remove(replica)

    def _park(self, target: int, wanted: int) -> None:
        """Restore replicas on spare GPUs and park them there; without a spare GPU nothing happens yet."""
        for _ in range(wanted):
            replica = Replica(target, PENDING, to_park=True)
            node = self._node_for(replica)
            if node is None:
                return
            self.replicas[target].append(replica)
            self._begin(replica, node)

    def _release_parked(self, target: int, wanted: int) -> None:
        for replica in [r for r in self.replicas[target] if r.phase == PARKED][:wanted]:
            self._remove(replica)

    def _remove(self, replica: Replica) -> None:
        replica.phase = GONE
        self.replicas[replica.target].remove(replica)

    def _free_gpus(self, replica: Replica, state: str) -> None:
        gpus = self.config.targets[replica.target].gpus_per_replica
        assert replica.node is not None
        replica.node.spare += gpus
        self._move(replica.target, gpus, state, "spare")

    def _phase(self, replica: Replica, phase: str) -> None:
        gpus = self.config.targets[replica.target].gpus_per_replica
        self._move(replica.target, gpus, replica.phase, phase)
        replica.phase = phase

    def _count_start(self, target: int, origin: str) -> None:
        if self.now_s >= self.ledger.since_s:
            self.starts[target][origin] = self.starts[target].get(origin, 0) + 1

    def _move(self, target: int, gpus: int, source: str, sink: str) -> None:
        self.ledger.move(gpus, self.ledger.slot(target, source), self.ledger.slot(target, sink))

    # -- GPUs -----------------------------------------------------------------------------------

    def _reclaim(self, node: Node, gpus: int) -> None:
        node.lent -= gpus
        node.reclaiming += gpus
        self._move(0, gpus, "lent", "reclaiming")

        def back(at_s: float) -> None:
            node.reclaiming -= gpus
            node.spare += gpus
            self._move(0, gpus, "reclaiming", "spare")
            self._start_pending()

        self._at(self.now_s + self._draw(self.config.supply), back)

    def _lend(self, wanted: int) -> None:
        for node, gpus in self.nodes.to_lend(wanted):
            node.spare -= gpus
            node.lent += gpus
            self._move(0, gpus, "spare", "lent")
