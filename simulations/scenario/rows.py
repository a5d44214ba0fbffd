"""The rows of the table: which policy, fed by which forecaster, starting replicas from what.

A name stands for all three. Every baseline comes twice, with cold starts alone and with our restores,
so that the reader can tell what the restore saves from what the policy saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoscaler.forecast import SamplePathForecaster
from autoscaler.ports import Forecaster
from policies.baselines.hpa import HpaPolicy
from policies.baselines.knative import KnativePolicy
from policies.baselines.planner import PlannerPolicy
from policies.baselines.static import StaticPolicy
from policies.decide import ForethawPolicy
from policies.types import Policy
from simulations.bounds.informed import informed_forecaster
from simulations.planner_forecasts import ArimaPoint, KalmanPoint, NoForecast
from simulations.scenario.scenario import Scenario

N_PATHS = 400
"""Enough for a quantile of 99%; a day of decisions then costs no more than serving its requests."""
PLANNER_UTILIZATION = 0.85
"""A planner's profile gives the throughput at which the SLA still holds, not the one at saturation; at
saturation, which is what the engine's rating means, every planner row is overloaded."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a policy, its forecaster, and what its replicas start from."""

    name: str
    policy: Policy[Any]
    make_forecaster: Callable[[], Forecaster[Any]]
    restored: bool = True
    bound: str = ""


RowMaker = Callable[[Scenario], Row]


def _paths(scenario: Scenario) -> Callable[[], Forecaster[Any]]:
    return lambda: SamplePathForecaster(seed=scenario.seed, n_paths=N_PATHS)


def _forethaw(name: str, *, restored: bool = True, pooled: bool = True) -> RowMaker:
    return lambda s: Row(name, ForethawPolicy(pooled=pooled), _paths(s), restored)


def _informed(scenario: Scenario) -> Row:
    def make() -> Forecaster[Any]:
        return informed_forecaster(scenario)

    return Row("informed", ForethawPolicy(name="informed"), make, restored=True, bound="informed")


def _reactive(name: str, policy: Policy[Any], *, restored: bool) -> RowMaker:
    return lambda s: Row(name, policy, NoForecast, restored)


def _planner(name: str, label: str, point: Callable[[], Forecaster[Any]], *, restored: bool) -> RowMaker:
    return lambda s: Row(name, PlannerPolicy(label=label, utilization=PLANNER_UTILIZATION), point, restored)


def _static(scenario: Scenario) -> Row:
    counts = {t.key: t.static_peak_replicas for t in scenario.targets}
    return Row("static peak", StaticPolicy(counts), NoForecast, restored=True)


ROWS: dict[str, RowMaker] = {
    "forethaw": _forethaw("forethaw"),
    "forethaw-cold": _forethaw("forethaw (cold)", restored=False),
    "forethaw-apart": _forethaw("forethaw (spares apart)", pooled=False),
    "hpa": _reactive("hpa", HpaPolicy(), restored=True),
    "hpa-cold": _reactive("hpa (cold)", HpaPolicy(), restored=False),
    "knative": _reactive("knative", KnativePolicy(metric="rps"), restored=True),
    "knative-cold": _reactive("knative (cold)", KnativePolicy(metric="rps"), restored=False),
    "knative-concurrency": _reactive("knative (concurrency)", KnativePolicy(), restored=True),
    "planner-arima": _planner("planner-arima", "planner-arima", ArimaPoint, restored=True),
    "planner-arima-cold": _planner("planner-arima (cold)", "planner-arima", ArimaPoint, restored=False),
    "planner-kalman": _planner("planner-kalman", "planner-kalman", KalmanPoint, restored=True),
    "planner-kalman-cold": _planner("planner-kalman (cold)", "planner-kalman", KalmanPoint, restored=False),
    "static": _static,
    "informed": _informed,
}
"""Rows by the name that `--policy` and `--compare` take. The clairvoyant bound is computed, not replayed."""

CLAIRVOYANT = "clairvoyant"

COMPARE_ALL: tuple[str, ...] = (
    "forethaw",
    "forethaw-cold",
    "hpa",
    "hpa-cold",
    "knative",
    "knative-cold",
    "planner-arima",
    "planner-arima-cold",
    "planner-kalman",
    "planner-kalman-cold",
    "static",
    "informed",
    CLAIRVOYANT,
)
