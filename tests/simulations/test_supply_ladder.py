"""`--supply lent+node` is a ladder of two steps end to end: GPUs are kept at both, nodes come and go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from autoscaler.ports import PassRecord
from simulations.replay import replay
from simulations.results import RunResult
from simulations.scenario.build import build_scenario
from simulations.scenario.options import TargetRequest
from simulations.scenario.rows import ROWS
from tests.simulations.command_line import counts_file
from tests.simulations.test_replay import options

POOL_GPUS = 32


@dataclass
class Replayed:
    """One replay of a load that rises from one replica to twelve for ten minutes."""

    result: RunResult
    supplies: list[dict[str, int]] = field(default_factory=list)
    nodes: list[tuple[float, str, str]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Replayed]:
    step = counts_file(tmp_path_factory.mktemp("supply") / "step.csv", [600] * 5 + [9000] * 10 + [600] * 10)
    return {supply: replayed(step, supply) for supply in ("lent", "node", "lent+node")}


def replayed(trace: str, supply: str) -> Replayed:
    target = TargetRequest(name="web", trace=trace, service="llama-3.1-8b-h100")
    scenario = build_scenario(options(targets=(target,), gpus=POOL_GPUS, supply=supply, duration_s=1500.0))
    supplies: list[dict[str, int]] = []
    nodes: list[tuple[float, str, str]] = []
    kinds: Counter[str] = Counter()

    def keep(record: PassRecord) -> None:
        supplies.append(dict(record.plan.supply))
        kinds.update(a.kind.value for a in record.actions)
        nodes.extend((record.now_s, a.kind.value, a.node) for a in record.actions if "node" in a.kind.value)

    return Replayed(replay(scenario, ROWS["forethaw"](scenario), keep=keep), supplies, nodes, kinds)


def test_gpus_are_planned_at_every_step_but_the_last(ran: dict[str, Replayed]) -> None:
    steps = {supply: {step for plan in of.supplies for step in plan} for supply, of in ran.items()}
    both = [plan for plan in ran["lent+node"].supplies if plan["free"] > 0 and plan["lent"] > 0]

    assert steps == {"lent": {"free"}, "node": {"free"}, "lent+node": {"free", "lent"}}
    assert both, "no plan keeps GPUs free and lent at once"


def test_nodes_are_bought_for_the_rise_and_given_back_after_it(ran: dict[str, Replayed]) -> None:
    bought = {node for at, kind, node in ran["lent+node"].nodes if kind == "add-node" and 300.0 <= at < 900.0}
    returned = {node for at, kind, node in ran["lent+node"].nodes if kind == "remove-node" and at >= 900.0}

    assert bought and returned
    assert ran["lent+node"].kinds["set-lent"] > 0
    assert ran["lent"].nodes == []
    assert ran["node"].kinds["set-lent"] == 0


def test_gpus_of_nodes_that_are_not_there_are_absent_and_neither_lent_nor_held(ran: dict[str, Replayed]) -> None:
    seconds = {supply: of.result.gpu_seconds for supply, of in ran.items()}

    assert seconds["lent"]["absent"] == 0
    assert seconds["node"]["lent"] == 0
    assert seconds["lent+node"]["absent"] > 0 and seconds["lent+node"]["lent"] > 0
    for of in ran.values():
        parts = of.result.gpu_seconds
        assert sum(parts.values()) == pytest.approx(POOL_GPUS * of.result.duration_s)
        held = sum(parts.values()) - parts["lent"] - parts["absent"]
        assert of.result.held_gpu_hours == pytest.approx(held / 3600.0)


def test_lent_gpus_cost_only_where_a_node_need_not_be_owned(ran: dict[str, Replayed]) -> None:
    """Lending recovers 30% of a GPU's price; where the pool is owned anyway it costs nothing."""
    lent, both = ran["lent"].result, ran["lent+node"].result
    misses = 5.0

    assert lent.cost_gpu_s == pytest.approx(lent.held_gpu_hours * 3600.0 + misses * lent.misses)
    priced = both.held_gpu_hours * 3600.0 + 0.7 * both.gpu_seconds["lent"] + misses * both.misses
    assert both.cost_gpu_s == pytest.approx(priced)


def test_two_steps_hold_fewer_gpus_than_nodes_alone_and_plan_otherwise_than_lending_alone(
    ran: dict[str, Replayed],
) -> None:
    assert ran["lent+node"].result.held_gpu_hours < ran["node"].result.held_gpu_hours
    assert [p["free"] for p in ran["lent+node"].supplies] != [p["free"] for p in ran["lent"].supplies]
