"""From what the user asked for to a scenario: traces opened, capacity rated, pool sized.

Whatever the user left open is settled here, each by a rule that the report repeats: the first replicas
from the true rate at the start, the pool from the static peaks, the work of a request from the engine's
rating at the trace's mean lengths.
"""

from __future__ import annotations

import math
from functools import partial

from autoscaler.input_error import InputError
from autoscaler.leadtimes.parts import LeadTimeFile, load_lead_times
from autoscaler.rating.service import Rated, ServiceModel, load_service
from policies.arrays import FloatArray
from policies.capacity import WorkRate
from policies.keys import SnapshotKey, TargetKey
from policies.types import SupplyStep, TargetSpec, TierSpec
from simulations.scenario.options import COMMAND_LINE, SimulateOptions, TargetRequest
from simulations.scenario.scenario import Scenario, TargetScenario
from simulations.traces import TrueRate, open_trace

NAMESPACE, POOL = "simulation", "pool"
SNAPSHOT_IMAGE_BYTES = 2 * 10**9
"""A replica's own memory in its snapshot, beside the weights that the holder keeps."""
NODE_GPUS = 8
NODE_CACHE_BYTES = 10**12
"""Host memory of a node for snapshots and weights; an 8-GPU H100 node has 2 TB in all."""
INITIAL_UTILIZATION = 0.70
POOL_PER_PEAK = 1.5
"""GPUs of the default pool per GPU at the static peaks: bursts need room, and the rest is lent."""


def build_scenario(options: SimulateOptions) -> Scenario:
    """Return the scenario of a command line; raises InputError for anything in it that cannot be used."""
    lead_times = load_lead_times(options.leadtimes)
    targets = tuple(_target(options, lead_times, request, i) for i, request in enumerate(options.targets))
    duration_s = min(t.trace.span_s for t in targets)
    if duration_s <= options.warmup_s:
        raise InputError(
            COMMAND_LINE,
            None,
            "--duration",
            duration_s,
            f"nothing is left to score after the warm-up of {options.warmup_s:g} s",
            "give a longer piece or a shorter --warmup",
        )
    largest = max(t.service.gpus_per_replica for t in targets)
    if options.gpus is not None and options.gpus < largest:
        problem = f"the largest replica needs {largest} GPUs"
        raise InputError(COMMAND_LINE, None, "--gpus", options.gpus, problem, f"give {largest} or more")
    return Scenario(
        targets=targets,
        supply=_supply(options, lead_times),
        lead_times=lead_times,
        pool_gpus=options.gpus or _pool_gpus(targets),
        gpus_per_node=NODE_GPUS,
        cache_bytes=NODE_CACHE_BYTES,
        pool_name=POOL,
        gpu_model=lead_times.name,
        fetch_bytes_per_s=lead_times.rates.store_bytes_per_s,
        duration_s=duration_s,
        warmup_s=options.warmup_s,
        bucket_s=60.0 if duration_s <= 86_400 else 600.0,
        sample_period_s=1.0,
        forecast_horizon_s=12.0,
        slo_wait_s=options.slo_wait_s,
        slo_share=options.slo_share,
        miss_cost=options.miss_cost,
        seed=options.seed,
        facts=_facts(options, lead_times, targets),
    )


def _target(options: SimulateOptions, lead_times: LeadTimeFile, request: TargetRequest, index: int) -> TargetScenario:
    service = _service(request)
    open_stream = partial(
        open_trace,
        request.trace,
        seed=options.seed * 1000 + index,
        scale=request.scale,
        thin=request.thin,
        start_s=options.start_s,
        duration_s=_piece_s(options, request),
    )
    stream = open_stream()
    prompt, output = stream.mean_tokens()
    rated = service.rated(prompt, output)
    demand = _true_demand(stream.true_rate(), rated)
    ladder = lead_times.ladder(service.gpus_per_replica, service.weights_bytes, restored=True)
    early = stream.true_rate().step_at(60.0)
    return TargetScenario(
        trace=stream.info,
        open_stream=open_stream,
        service=service,
        work=WorkRate(rated.work_per_request_s, rated.work_per_prompt_token_s, rated.work_per_output_token_s),
        mean_prompt_tokens=prompt,
        mean_output_tokens=output,
        initial_replicas=max(math.ceil(float(demand[: early + 1].max()) / INITIAL_UTILIZATION), 1),
        peak_demand_replicas=float(demand.max()),
        wanted=_wanted(options, request, service, rated, ladder),
        cold_ladder=lead_times.ladder(service.gpus_per_replica, service.weights_bytes, restored=False),
    )


def _wanted(
    options: SimulateOptions, request: TargetRequest, service: ServiceModel, rated: Rated, ladder: tuple[TierSpec, ...]
) -> TargetSpec:
    return TargetSpec(
        key=(key := TargetKey(NAMESPACE, request.name)),
        gpus_per_replica=service.gpus_per_replica,
        min_replicas=1,
        max_replicas=100_000,
        slo_wait_s=options.slo_wait_s,
        miss_cost=options.miss_cost,
        rated_rps=float(rated.rps),
        rated_concurrency=float(rated.concurrency),
        ladder=ladder,
        artifact_bytes=service.weights_bytes + SNAPSHOT_IMAGE_BYTES,
        snapshot=SnapshotKey(key, service.name),
    )


def _supply(options: SimulateOptions, lead_times: LeadTimeFile) -> tuple[SupplyStep, ...]:
    try:
        return lead_times.supply(options.supply)
    except InputError as error:
        raise InputError(COMMAND_LINE, None, "--supply", options.supply, error.problem, error.hint) from error


def _service(request: TargetRequest) -> ServiceModel:
    try:
        return load_service(request.service)
    except (ValueError, FileNotFoundError) as error:
        hint = "see `forethaw services` or give a TOML file"
        raise InputError(COMMAND_LINE, None, "--service", request.service, str(error), hint) from error


def _piece_s(options: SimulateOptions, request: TargetRequest) -> float | None:
    """Return the asked duration, cut to what the trace has from the start on."""
    if options.duration_s is None:
        return None
    rest_s = open_trace(request.trace, seed=1, start_s=options.start_s).duration_s
    return min(options.duration_s, rest_s)


def _true_demand(rate: TrueRate, rated: Rated) -> FloatArray:
    """Demand by step of the true rate, in replicas."""
    work = (
        rated.work_per_request_s
        + rate.mean_prompt * rated.work_per_prompt_token_s
        + rate.mean_output * rated.work_per_output_token_s
    )
    demand: FloatArray = rate.rate_rps * work
    return demand


def _pool_gpus(targets: tuple[TargetScenario, ...]) -> int:
    peaks = sum((t.static_peak_replicas + 2) * t.service.gpus_per_replica for t in targets)
    return math.ceil(peaks * POOL_PER_PEAK / NODE_GPUS) * NODE_GPUS


def _facts(options: SimulateOptions, lead_times: LeadTimeFile, targets: tuple[TargetScenario, ...]) -> dict[str, str]:
    facts = {"lead times": f"{lead_times.name}, GPUs from {options.supply}"} | lead_times.sources()
    for t in targets:
        info = t.trace
        facts[f"trace: {t.name}"] = f"{info.name}: {info.rule} Licence: {info.licence}. Cite: {info.citation}"
        facts[f"engine: {t.name}"] = (
            f"{t.service.name}, {t.service.gpus_per_replica} GPUs a replica, rated {t.wanted.rated_rps:.2f} requests/s "
            f"at {t.mean_prompt_tokens:.0f} prompt and {t.mean_output_tokens:.0f} output tokens"
        )
    return facts
