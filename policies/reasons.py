"""Why a number is what it is: one code to count and to put in a condition, its parameters beside it.

A `Reason` carries no sentence. The code is stable from pass to pass and satisfies what Kubernetes asks
of `metav1.Condition.reason`; the parameters hold the numbers of the moment; the sentence is rendered at
the edge (`text`), so that an event or a condition changes when the code does and not with each decimal.

The first reason of a target's plan is made after bounds and budget (`for_count`), from what there was and
what is planned, so that it can never contradict the plan: its parameter `planned` *is* the plan's count.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Param = float | int | str


class ReasonCode(StrEnum):
    """Every reason of a plan or an action. Values match `^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`."""

    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
    UNCHANGED = "Unchanged"
    METRICS_UNKNOWN = "MetricsUnknown"
    NO_FORECAST = "NoForecast"
    WAKE_COVERED = "WakeCovered"
    WORTH_HOLDING = "WorthHolding"
    BOUNDS = "Bounds"
    GPU_BUDGET = "GpuBudget"
    DEMAND_MEASURED = "DemandMeasured"
    DEMAND_FORECAST = "DemandForecast"
    STABILIZED = "Stabilized"
    RATE_LIMITED = "RateLimited"
    PANIC = "Panic"
    SCALE_DOWN_DELAYED = "ScaleDownDelayed"
    FIXED_COUNT = "FixedCount"
    WARM_POOL = "WarmPool"
    SPARE_GPUS = "SpareGpus"
    GPUS_LENT = "GpusLent"
    SUPPLY_BALANCED = "SupplyBalanced"
    SNAPSHOT_PLACED = "SnapshotPlaced"
    SNAPSHOT_UNPLACED = "SnapshotUnplaced"
    START_OVERDUE = "StartOverdue"
    PLAN_REJECTED = "PlanRejected"


HOLDING = frozenset({ReasonCode.METRICS_UNKNOWN, ReasonCode.NO_FORECAST, ReasonCode.PLAN_REJECTED})
"""Reasons whose text names the replicas held: their parameter `planned` is the plan's count as well."""

_TEXTS: dict[ReasonCode, str] = {
    ReasonCode.SCALED_UP: "{current} to {planned} replicas",
    ReasonCode.SCALED_DOWN: "{current} to {planned} replicas",
    ReasonCode.UNCHANGED: "no change at {planned} replicas",
    ReasonCode.METRICS_UNKNOWN: "demand is unknown (no fresh metrics): holding {planned} replicas",
    ReasonCode.NO_FORECAST: "no forecast yet: holding {planned} replicas",
    ReasonCode.WAKE_COVERED: (
        "{needed} replicas cover {cover_s:.1f} s until a wake from {wake} could serve, at quantile {quantile:.4f}"
    ),
    ReasonCode.WORTH_HOLDING: "{held} replicas are worth holding: releasing and waking again would cost more",
    ReasonCode.BOUNDS: "{wanted} replicas wanted, {planned} within the bounds {minimum} to {maximum}",
    ReasonCode.GPU_BUDGET: "{wanted} replicas wanted, {planned} within the budget of {gpu_budget} GPUs",
    ReasonCode.DEMAND_MEASURED: "{demand:.2f} replicas of demand at {utilization:.0%} utilisation ask for {wanted}",
    ReasonCode.DEMAND_FORECAST: (
        "{demand:.2f} replicas of demand forecast at {utilization:.0%} utilisation ask for {wanted}"
    ),
    ReasonCode.STABILIZED: "recent recommendations allow {allowed}, not {wanted}",
    ReasonCode.RATE_LIMITED: "the scaling rate allows {allowed}, not {wanted}",
    ReasonCode.PANIC: "{observed:.2f} replicas of demand on {ready} ready: no fewer than {least} while in panic",
    ReasonCode.SCALE_DOWN_DELAYED: "the scale-down delay keeps {allowed}, not {wanted}",
    ReasonCode.FIXED_COUNT: "a fixed count of {wanted} replicas",
    ReasonCode.WARM_POOL: "{planned} replicas wanted in tier {tier}, {current} there",
    ReasonCode.SPARE_GPUS: (
        "{planned} spare GPUs: {needed} cover {cover_s:.1f} s until the next supply could serve, at quantile "
        "{quantile:.4f}; {held} are worth holding; the budget is {gpu_budget} GPUs"
    ),
    ReasonCode.GPUS_LENT: (
        "{planned} GPUs kept at supply step {step}: with the nearer ones they cover {cover_s:.1f} s until the next "
        "supply could serve, at quantile {quantile:.4f}"
    ),
    ReasonCode.SUPPLY_BALANCED: "{planned} free GPUs wanted",
    ReasonCode.SNAPSHOT_PLACED: "a wake may come here",
    ReasonCode.SNAPSHOT_UNPLACED: "the snapshot is no longer placed here",
    ReasonCode.START_OVERDUE: (
        "started {elapsed_s:.0f} s ago, due within {deadline_s:.0f} s: no longer counted as capacity"
    ),
    ReasonCode.PLAN_REJECTED: "the plan broke its contract ({violation}): holding {planned} replicas",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """A code and the numbers of the moment, as (name, value) pairs in the order given."""

    code: ReasonCode
    params: tuple[tuple[str, Param], ...] = ()

    def __getitem__(self, name: str) -> Param:
        """Return the parameter `name`; KeyError if the reason has none such."""
        return dict(self.params)[name]

    @property
    def text(self) -> str:
        """Render the sentence for a person; KeyError if the reason lacks a parameter of its code."""
        return _TEXTS[self.code].format(**dict(self.params))


def because(code: ReasonCode, **params: Param) -> Reason:
    """Return the reason `code` with the parameters that its text names."""
    return Reason(code, tuple(params.items()))


def for_count(current: int, planned: int) -> Reason:
    """Return what happens to a count: the head of a target's reasons; `planned` is the plan's own number."""
    if planned > current:
        return because(ReasonCode.SCALED_UP, current=current, planned=planned)
    if planned < current:
        return because(ReasonCode.SCALED_DOWN, current=current, planned=planned)
    return because(ReasonCode.UNCHANGED, current=current, planned=planned)
