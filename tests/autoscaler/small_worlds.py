"""Small simulated pools for the autoscaler's tests: real ports throughout, the simulator's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoscaler.forecast import SamplePathForecaster
from simulations.replay import Run
from simulations.scenario.build import build_scenario
from simulations.scenario.options import TargetRequest, make_options
from simulations.scenario.rows import ROWS, Row
from simulations.scenario.scenario import Scenario

PAIR = (
    TargetRequest(name="chat", trace="servegen/m-small", service="llama-3.1-8b-h100", thin=0.2),
    TargetRequest(name="images", trace="servegen/mm-image", service="qwen-32b-h100-tp2", thin=0.5),
)


def scenario(duration_s: float = 3600.0, **changes: Any) -> Scenario:
    """Two targets, one of two GPUs a replica, on one pool."""
    asked: dict[str, Any] = {"targets": PAIR, "rows": ("forethaw",), "warmup_s": 60.0, "progress": False, "jobs": 1}
    asked["start_s"] = 32_400.0
    return build_scenario(make_options(duration_s=duration_s, **(asked | changes)))


def row(of: Scenario, name: str, n_paths: int = 40) -> Row:
    """One row of the table; ours with few paths, so that an hour takes seconds."""
    made = ROWS[name](of)
    if name.startswith("forethaw"):
        return replace(made, make_forecaster=lambda: SamplePathForecaster(seed=of.seed, n_paths=n_paths))
    return made


def run(of: Scenario, name: str, n_paths: int = 40) -> Run:
    """A run of that row, ready to be stepped."""
    return Run(of, row(of, name, n_paths))
