"""The simulated cluster keeps the contract of the `Cluster` port."""

from __future__ import annotations

from autoscaler.rating.service import load_service
from policies.actions import ActionKind
from policies.keys import SnapshotKey, TargetKey
from policies.leadtime import LeadTime
from policies.types import ACTIVE, COLD, FREE, PARKED, STAGED, SupplyStep, TargetSpec, TierSpec
from simulations.engine import Fleet
from simulations.world.cluster import SimulatedCluster, WorldConfig
from simulations.world.ledger import Ledger
from simulations.world.serving import Serving
from tests.contracts.cluster_contract import LONG_S, NODE_GPUS, ClusterContract, ClusterWorld, on_node
from tests.simulations.stand_in_arrivals import DURATION_S, stream

SUPPLY = (
    SupplyStep(FREE, LeadTime((0.0,)), 1.0),
    SupplyStep("lent", LeadTime((5.0,)), 0.3),
    SupplyStep("node", LeadTime((60.0,)), 0.0, whole_nodes=True),
)
SERVICE = load_service("llama-3.1-8b-h100")
SLOTS = 3 * NODE_GPUS
TICK_S = 5.0


def spec(name: str, gpus: int) -> TargetSpec:
    key = TargetKey("contract", name)
    ladder = (
        TierSpec(ACTIVE, LeadTime((0.0,)), 1.0, float(gpus)),
        TierSpec(PARKED, LeadTime((1.0,)), 0.05, 0.05),
        TierSpec(STAGED, LeadTime((4.0,)), 0.0, 0.01, needs_snapshot=True),
        TierSpec(COLD, LeadTime((30.0,)), 0.0, 0.0),
    )
    return TargetSpec(
        key=key,
        gpus_per_replica=gpus,
        min_replicas=0,
        max_replicas=10,
        slo_wait_s=2.0,
        miss_cost=1.0,
        rated_rps=1.0,
        rated_concurrency=10.0,
        ladder=ladder,
        artifact_bytes=60,
        snapshot=SnapshotKey(key, "v1"),
    )


class SimulatedWorld:
    """Implements `ClusterWorld` over the simulator."""

    def __init__(self) -> None:
        self.busy, self.idle = spec("busy", 1), spec("idle", 2)
        self.free, self.lent, self.absent = "node-000", "node-001", "node-002"
        keys = (self.busy.key, self.idle.key)
        serving = {
            key: Serving(
                Fleet(SERVICE, SLOTS, 2.0, DURATION_S, DURATION_S), stream(every, output_tokens=300_000), SLOTS
            )
            for key, every in zip(keys, (60.0, 0.0), strict=True)
        }
        config = WorldConfig(
            (self.busy, self.idle), SUPPLY, 3 * NODE_GPUS, NODE_GPUS, "h100", 100, fetch_bytes_per_s=6.0, seed=1
        )
        ledger = Ledger(keys, 3 * NODE_GPUS, DURATION_S, DURATION_S, 0.0, begin="absent")
        self.simulated = SimulatedCluster(config, serving, ledger)
        self.cluster = self.simulated
        self.apply_first()

    def apply_first(self) -> None:
        """Buy two of three nodes, lend one, and cache a snapshot on the other."""
        now_s = self.now_s
        self.cluster.apply(tuple(on_node(ActionKind.ADD_NODE, n) for n in (self.free, self.lent)), now_s)
        self.advance(LONG_S)
        lend = on_node(ActionKind.SET_LENT, self.lent, NODE_GPUS)
        stage = on_node(ActionKind.STAGE, self.free, snapshot=self.busy.snapshot)
        self.cluster.apply((lend, stage), self.now_s)
        self.advance(LONG_S)

    @property
    def now_s(self) -> float:
        return self.simulated.now_s

    def advance(self, seconds: float) -> None:
        """Advance in ticks, as a replay does: what the engines find out reaches the cluster at a tick."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.simulated.advance(min(self.now_s + TICK_S, until_s))


class TestSimulatedCluster(ClusterContract):
    def make(self) -> ClusterWorld:
        return SimulatedWorld()
