"""Reasons: codes that Kubernetes accepts, texts that render, and numbers that are the plan's own."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from policies.assignment import assign
from policies.baselines.hpa import HpaPolicy
from policies.baselines.knative import KnativePolicy
from policies.baselines.planner import PlannerPolicy
from policies.baselines.static import StaticPolicy
from policies.contract import checked
from policies.decide import ForethawPolicy
from policies.reasons import HOLDING, ReasonCode, because, for_count
from policies.types import DecisionInput, Plan, Policy, TargetPlan
from tests.policies.drawn import World, worlds
from tests.policies.timelines import codes
from tests.policies.worlds import given, key, seen, steady, target

CONDITION_REASON = re.compile(r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
"""What `metav1.Condition.reason` must match, by its OpenAPI schema."""
CHAIN = (ReasonCode.BOUNDS, ReasonCode.GPU_BUDGET)
"""Reasons that change a count, one after the other: the last one's `planned` is the plan's."""
A = key("a")

OURS: Policy[Any] = ForethawPolicy()
APART: Policy[Any] = ForethawPolicy(pooled=False)
STATIC: Policy[Any] = StaticPolicy({key(n): 7 for n in ("a", "b", "c")})
BASELINES: tuple[Policy[Any], ...] = (
    HpaPolicy(),
    KnativePolicy(),
    KnativePolicy(metric="rps"),
    PlannerPolicy(),
    STATIC,
)
POLICIES = (OURS, APART, *BASELINES)


EVERY_PARAMETER: dict[str, float | int | str] = {
    **dict.fromkeys(("current", "planned", "needed", "held", "wanted", "minimum", "maximum", "gpu_budget"), 3),
    **dict.fromkeys(("allowed", "ready", "least"), 4),
    **dict.fromkeys(("cover_s", "quantile", "demand", "utilization", "observed", "elapsed_s", "deadline_s"), 0.5),
    **dict.fromkeys(("wake", "tier", "step", "violation"), "x"),
}


@pytest.mark.parametrize("code", ReasonCode)
def test_every_code_is_a_condition_reason_and_has_a_text(code: ReasonCode) -> None:
    assert CONDITION_REASON.match(code.value)
    assert because(code, **EVERY_PARAMETER).text


def test_a_reason_without_a_parameter_that_its_text_names_is_refused_when_read() -> None:
    with pytest.raises(KeyError, match="current"):
        _ = because(ReasonCode.SCALED_UP, planned=3).text
    with pytest.raises(KeyError, match="budget"):
        _ = because(ReasonCode.SCALED_UP, planned=3)["budget"]


@pytest.mark.parametrize(
    ("current", "planned", "code", "text"),
    [
        (1, 5, "ScaledUp", "1 to 5 replicas"),
        (5, 1, "ScaledDown", "5 to 1 replicas"),
        (5, 5, "Unchanged", "no change at 5 replicas"),
        (0, 0, "Unchanged", "no change at 0 replicas"),
    ],
)
def test_the_head_says_what_happens_to_the_count(current: int, planned: int, code: str, text: str) -> None:
    reason = for_count(current, planned)

    assert (reason.code, reason.text, reason["planned"]) == (code, text, planned)


def test_equal_codes_with_other_numbers_have_one_code_and_two_texts() -> None:
    """An event follows the code, which stays while the numbers flicker."""
    first = because(ReasonCode.DEMAND_MEASURED, demand=1.234, utilization=0.7, wanted=2)
    second = because(ReasonCode.DEMAND_MEASURED, demand=1.239, utilization=0.7, wanted=2)

    assert (first.code, first != second) == (second.code, True)
    assert first.text == "1.23 replicas of demand at 70% utilisation ask for 2"


def decided(policy: Policy[Any], told: DecisionInput) -> Plan:
    return policy.decide(told, policy.initial()).plan


def ours(told: DecisionInput) -> TargetPlan:
    return decided(OURS, told).targets[A]


def test_a_count_above_the_maximum_is_planned_and_told_at_the_maximum() -> None:
    """Maximum 32, 30 there, 40 needed (36 at 90%): 32 planned, and no sentence says 30 to 40."""
    plan = ours(given((target(most=32),), (seen(30),), steady((36.0,))))

    assert (plan.active, codes(plan)) == (32, ("ScaledUp", "WakeCovered", "Bounds"))
    assert plan.reasons[0].text == "30 to 32 replicas"
    assert plan.reasons[2].text == "40 replicas wanted, 32 within the bounds 1 to 32"


def test_a_count_below_the_minimum_is_planned_and_told_at_the_minimum() -> None:
    """Minimum 5, one there, none needed: growth to 5, not a scale-down to 0."""
    plan = ours(given((target(least=5),), (seen(1),), steady((0.0,))))

    assert (plan.active, codes(plan)) == (5, ("ScaledUp", "WakeCovered", "Bounds"))
    assert plan.reasons[0].text == "1 to 5 replicas"
    assert plan.reasons[2].text == "0 replicas wanted, 5 within the bounds 5 to 1000"


def test_unknown_demand_below_the_minimum_is_held_at_the_minimum() -> None:
    """Minimum 5, one there, demand unknown: 5 are planned and 5 are held."""
    plan = ours(given((target(least=5),), (seen(1, known=False),), steady((0.0,))))

    assert (plan.active, codes(plan)) == (5, ("ScaledUp", "MetricsUnknown", "Bounds"))
    assert plan.reasons[1].text == "demand is unknown (no fresh metrics): holding 5 replicas"


def test_a_count_that_bounds_and_budget_cut_names_both_in_order() -> None:
    """40 needed, 32 allowed, 20 affordable."""
    plan = ours(given((target(most=32),), (seen(10),), steady((36.0,)), budget=20))

    assert [r.text for r in plan.reasons[2:]] == [
        "40 replicas wanted, 32 within the bounds 1 to 32",
        "32 replicas wanted, 20 within the budget of 20 GPUs",
    ]
    assert plan.reasons[0].text == "10 to 20 replicas"


def consistent(plan: TargetPlan, current: int) -> bool:
    """Whether every number that the reasons give for the planned count is the plan's."""
    head, *grounds = plan.reasons
    chain = [r["planned"] for r in grounds if r.code in CHAIN]
    return (
        head == for_count(current, plan.active)
        and all(r["planned"] == plan.active for r in grounds if r.code in HOLDING)
        and (not chain or chain[-1] == plan.active)
    )


def numbers(text: str) -> list[int]:
    """Counts that a text calls planned: what comes after 'to', 'at' or 'holding' and before 'replicas'."""
    return [int(n) for n in re.findall(r"(?:to|at|holding) (\d+) replicas", text)]


@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda p: f"{p.name}-{getattr(p, 'metric', '')}{getattr(p, 'pooled', '')}"
)
@settings(max_examples=60)
@drawn(world=worlds())
def test_every_reason_renders_and_names_the_planned_count_and_no_other(policy: Policy[Any], world: World) -> None:
    """Out of the policy, and after the contract has held or cut it."""
    plan = decided(policy, world.given)

    good, _ = checked(plan, world.given)

    for made in (plan, good):
        assert made.targets.keys() == set(world.given.keys)
        for k, of in made.targets.items():
            assert consistent(of, world.given.observed[k].current), of.reasons
            assert all(n == of.active for r in of.reasons for n in numbers(r.text)), of.reasons
            assert all(r.text and CONDITION_REASON.match(r.code) for r in of.reasons)
        assert all(r.text for r in made.reasons)


@settings(max_examples=60)
@drawn(worlds(), st.sampled_from(POLICIES))
def test_every_action_says_why(world: World, policy: Policy[Any]) -> None:
    plan, _ = checked(decided(policy, world.given), world.given)

    actions = assign(plan, world.given, world.replicas, world.running)

    assert all(a.reason.text and CONDITION_REASON.match(a.reason.code) for a in actions)


def test_the_reason_of_the_spares_names_them() -> None:
    paths = steady((36.0,), n_paths=100)
    paths[:, :20, 2:] = 60.0

    plan = decided(OURS, given((target(),), (seen(40),), paths))

    (why,) = plan.reasons
    assert (why.code, why["planned"]) == ("SpareGpus", plan.spare_gpus)
    assert why.text.startswith(f"{plan.spare_gpus} spare GPUs: ")
    cut = decided(OURS, given((target(),), (seen(40),), paths, budget=45))
    assert cut.reasons[0]["planned"] == cut.spare_gpus
    assert 0 < cut.spare_gpus < plan.spare_gpus
