"""Whole replays on shipped traces: equal seeds, conservation, gaps, and no policy below the bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscaler.ports import PassRecord
from policies.keys import TargetKey
from simulations.bounds.clairvoyant import clairvoyant_row
from simulations.compare import run_row, run_simulate
from simulations.replay import Run, replay
from simulations.report import to_json
from simulations.results import RunResult
from simulations.scenario.build import build_scenario
from simulations.scenario.options import FLEET_SERVEGEN, SimulateOptions, TargetRequest, make_options
from simulations.scenario.rows import ROWS
from simulations.world.ledger import POOL_STATES


def options(rows: tuple[str, ...] = ("forethaw",), **changes: object) -> SimulateOptions:
    given: dict[str, object] = {
        "targets": (TargetRequest(name="chat", trace="azure-conv", service="llama-3.1-8b-h100", scale=8),),
        "rows": rows,
        "duration_s": 420.0,
        "warmup_s": 120.0,
        "progress": False,
        "jobs": 1,
    }
    return make_options(**(given | changes))


PAIR = (
    TargetRequest(name="chat", trace="azure-conv", service="llama-3.1-8b-h100", scale=8),
    TargetRequest(name="code", trace="azure-code", service="llama-3.1-70b-fp8-h100-tp2", scale=8),
)


def test_equal_seeds_give_byte_identical_json_and_others_do_not() -> None:
    asked = options(rows=("forethaw", "hpa"), targets=PAIR)

    first = to_json(run_simulate(asked))

    assert to_json(run_simulate(asked)) == first
    assert to_json(run_simulate(asked.model_copy(update={"seed": 2}))) != first


def test_rows_side_by_side_are_the_rows_one_after_another() -> None:
    asked = options(rows=("forethaw", "hpa-cold"))

    assert to_json(run_simulate(asked.model_copy(update={"jobs": 2}))) == to_json(run_simulate(asked))


@pytest.mark.parametrize(
    "name", ["forethaw", "forethaw-cold", "hpa", "knative-cold", "planner-kalman", "static", "informed"]
)
def test_every_request_is_counted_once_and_every_gpu_second_is_booked_once(name: str) -> None:
    """At every pass a target's arrivals are its completions and what runs or waits; at the end all have completed."""
    scenario = build_scenario(options(targets=PAIR))

    def balanced(record: PassRecord) -> None:
        for key, serving in run.cluster.serving.items():
            now = serving.fleet.totals
            assert now.arrived == now.completed + now.running + now.queued, (key, record.now_s)

    run = Run(scenario, ROWS[name](scenario), keep=balanced)
    run.to_end()
    run.cluster.close()
    result = run.result()

    assert result.decisions > 0
    for target, scored in zip(scenario.targets, result.targets, strict=True):
        stream = target.open_stream()
        before = len(stream.take_until(scenario.warmup_s)[0])
        arrived = len(stream.take_until(scenario.duration_s)[0])
        totals = run.cluster.serving[target.key].fleet.totals
        assert (totals.arrived, totals.running, totals.queued) == (before + arrived, 0, 0)
        assert totals.completed == before + arrived
        assert scored.requests == arrived
        assert scored.misses <= arrived
        # Completions of the scored time: requests of the warm-up that end in it come on top.
        assert arrived <= scored.completed <= arrived + before
    pool_gpu_s = scenario.pool_gpus * (scenario.duration_s - scenario.warmup_s)
    assert sum(result.gpu_seconds.values()) == pytest.approx(pool_gpu_s)
    by_target = sum(sum(t.gpu_seconds.values()) for t in result.targets)
    pool_own = sum(result.gpu_seconds[s] for s in POOL_STATES)
    assert by_target + pool_own == pytest.approx(pool_gpu_s)


def test_threads_change_nothing() -> None:
    scenario = build_scenario(options(targets=PAIR))

    one, two = run_row(scenario, "forethaw", jobs=1), run_row(scenario, "forethaw", jobs=2)

    assert (one.misses, one.gpu_seconds, one.targets) == (two.misses, two.gpu_seconds, two.targets)


def test_no_row_costs_less_than_the_clairvoyant_bound() -> None:
    asked = options(targets=FLEET_SERVEGEN, start_s=32_400.0, duration_s=300.0)
    scenario = build_scenario(asked)
    bound = clairvoyant_row(scenario)

    for name in ("forethaw", "hpa", "knative", "planner-arima", "static", "informed"):
        assert run_row(scenario, name, jobs=2).cost_gpu_s >= bound.cost_gpu_s


def small_pool(name: str, gpus: int) -> RunResult:
    return run_row(build_scenario(options(gpus=gpus)), name, jobs=1)


def test_a_pool_too_small_is_used_up_and_never_exceeded() -> None:
    """Two GPUs for a load of almost three: everything serves, nothing is lent, requests are late."""
    result = small_pool("forethaw", 2)

    assert result.gpu_seconds["lent"] < 0.05 * 2 * 300
    assert result.misses > 0
    assert sum(result.gpu_seconds.values()) == pytest.approx(2 * 300)


def test_whole_nodes_as_supply_are_slower_than_lent_gpus() -> None:
    """Where the next GPU is a new node, the policy keeps more of them: it plans with that lead time."""
    lent = run_row(build_scenario(options(gpus=64)), "forethaw", jobs=1)
    node = run_row(build_scenario(options(gpus=64, supply="node")), "forethaw", jobs=1)

    assert node.held_gpu_hours > lent.held_gpu_hours


def test_a_gap_in_the_record_is_no_reason_to_scale_down(tmp_path: Path) -> None:
    """Counts for 6 minutes, 3 minutes missing, 3 more: through the gap the plan holds what it had."""
    rows = [f"1998-05-01 00:{m:02d},{6000}" for m in (*range(6), 9, 10, 11)]
    trace = tmp_path / "counts.csv"
    trace.write_text("minute_utc,requests\n" + "\n".join(rows) + "\n")
    target = TargetRequest(name="web", trace=str(trace), service="llama-3.1-8b-h100")
    scenario = build_scenario(options(targets=(target,), duration_s=720.0))
    active: dict[float, int] = {}

    def keep(record: PassRecord) -> None:
        active[record.now_s] = record.decision.plan.targets[TargetKey("simulation", "web")].active

    replay(scenario, ROWS["forethaw"](scenario), keep=keep)

    in_gap = [n for at, n in active.items() if 375.0 <= at <= 540.0]
    assert len(in_gap) > 50
    assert len(set(in_gap)) == 1
    assert in_gap[0] >= 6
