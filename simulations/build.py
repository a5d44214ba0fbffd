"""From what the user asked for to a scenario: traces opened, capacity rated, pool sized.

Whatever the user left open is settled here, each by a rule that the report repeats: the first replicas
from the true rate at the start, the pool from the static peaks, the work of a request from the engine's
rating at the trace's mean lengths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from policies.capacity import WorkRate
from policies.types import TargetSpec
from simulations.errors import InputError
from simulations.leadtimes import LeadTimeFile, load_lead_times
from simulations.options import SimulateOptions
from simulations.scenario import Scenario, TargetScenario
from simulations.service import Rated, ServiceModel, load_service
from simulations.traces import ArrivalStream, open_trace

SNAPSHOT_IMAGE_BYTES = 2 * 10**9
"""A replica's own memory in its snapshot, beside the weights that the holder keeps."""
NODE_GPUS = 8
NODE_CACHE_BYTES = 10**12
"""Host memory of a node for snapshots and weights; an 8-GPU H100 node has 2 TB in all."""
STORE_BYTES_PER_S = 10 * 10**9
"""Bandwidth of the shared store that nodes fetch snapshots from, all together."""
INITIAL_UTILIZATION = 0.70
POOL_PER_PEAK = 1.5


@dataclass(frozen=True, slots=True)
class TargetRequest:
    """One target as asked for on the command line."""

    name: str
    trace: str
    service: str
    scale: int
    thin: float


FLEET_SERVEGEN: tuple[TargetRequest, ...] = (
    TargetRequest("m-large", "servegen/m-large", "llama-3.1-70b-fp8-h100-tp2", 1, 1.0),
    TargetRequest("m-mid", "servegen/m-mid", "llama-3.1-8b-h100", 1, 1.0),
    TargetRequest("m-small", "servegen/m-small", "llama-3.1-8b-h100", 1, 1.0),
    TargetRequest("deepseek-r1", "servegen/deepseek-r1", "qwen-32b-h100-tp2", 1, 1.0),
    TargetRequest("mm-image", "servegen/mm-image", "qwen2.5-vl-7b-h100", 1, 1.0),
)
"""The flagship: five production models of one provider on one clock, each served by a model of its size."""


def build_scenario(options: SimulateOptions) -> Scenario:
    """The scenario of a command line; raises InputError for anything in it that cannot be used."""
    lead_times = load_lead_times(options.leadtimes)
    supply = lead_times.supply(options.supply)
    requests = target_requests(options)
    targets = tuple(_target(options, lead_times, r) for r in requests)
    duration_s = min(options.duration_s or math.inf, *(t.trace.span_s for t in targets))
    return Scenario(
        targets=targets,
        supply=supply,
        pool_gpus=options.gpus or _pool_gpus(targets),
        gpus_per_node=NODE_GPUS,
        cache_bytes=NODE_CACHE_BYTES,
        whole_nodes=options.supply == "node",
        fetch_bytes_per_s=STORE_BYTES_PER_S,
        duration_s=duration_s,
        warmup_s=options.warmup_s,
        bucket_s=_bucket_s(duration_s, options.warmup_s),
        sample_period_s=1.0,
        forecast_horizon_s=30.0,
        slo_wait_s=options.slo_wait_s,
        slo_share=options.slo_share,
        miss_cost=options.miss_cost,
        seed=options.seed,
        facts={},
    )
