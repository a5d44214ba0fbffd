"""Targets are found by key: order, and targets that come and go, change nothing for the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from policies.baselines.hpa import HpaPolicy
from policies.baselines.knative import KnativePolicy
from policies.baselines.planner import PlannerPolicy
from policies.baselines.static import StaticPolicy
from policies.decide import ForethawPolicy
from policies.keys import SnapshotKey, TargetKey
from policies.leadtime import LeadTime
from policies.paths import DemandPaths
from policies.types import ACTIVE, DecisionInput, Policy
from tests.policies.drawn import World, worlds
from tests.policies.worlds import STEP_ENDS_S, given, key, ladder, seen, steady, target

PLENTY = 10_000
"""A budget that cuts none of the drawn worlds."""
POLICIES: tuple[Policy[Any], ...] = (
    ForethawPolicy(),
    HpaPolicy(),
    KnativePolicy(),
    PlannerPolicy(),
    StaticPolicy({key(n): 7 for n in ("a", "b", "c", "d")}),
)
by_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)


def active(policy: Policy[Any], told: DecisionInput, memory: Any = None) -> Mapping[TargetKey, int]:
    plan = policy.decide(told, policy.initial() if memory is None else memory).plan
    return {k: of.active for k, of in plan.targets.items()}


def without(told: DecisionInput, key: TargetKey) -> DecisionInput:
    observed = {k: o for k, o in told.observed.items() if k != key}
    return replace(told, targets=tuple(t for t in told.targets if t.key != key), observed=observed)


@by_policy
@settings(max_examples=40)
@drawn(world=worlds(), order=st.permutations(range(3)))
def test_the_order_of_targets_changes_no_plan(policy: Policy[Any], world: World, order: list[int]) -> None:
    told = replace(world.given, gpu_budget=PLENTY)
    reordered = replace(told, targets=tuple(told.targets[i] for i in order if i < len(told.targets)))

    assert active(policy, reordered) == active(policy, told)


@by_policy
@settings(max_examples=40)
@drawn(world=worlds(), leaves=st.integers(0, 2))
def test_a_target_that_leaves_or_joins_changes_no_other_plan(policy: Policy[Any], world: World, leaves: int) -> None:
    told = replace(world.given, gpu_budget=PLENTY)
    key_left = told.keys[leaves % len(told.keys)]

    all_of_them = active(policy, told)
    others = active(policy, without(told, key_left))

    assert others == {k: n for k, n in all_of_them.items() if k != key_left}


@by_policy
def test_the_rows_of_a_forecast_are_found_by_key_whatever_stands_around_them(policy: Policy[Any]) -> None:
    """b's forecast says 20, a's 4; a row of a target that is not asked for stands between them."""
    told = given((target("a"), target("b")), (seen(4), seen(20)), steady((4.0, 20.0)))
    assert told.paths is not None
    rows = np.concatenate((told.paths.paths[1:], steady((90.0,)), told.paths.paths[:1]))
    mixed = DemandPaths((key("b"), key("x"), key("a")), told.paths.step_ends_s, rows, told.paths.known)

    assert active(policy, replace(told, paths=mixed)) == active(policy, told)


@pytest.mark.parametrize("seed", range(10))
def test_lead_times_are_drawn_by_key_and_not_by_position(seed: int) -> None:
    """A wake takes 0.5 to 30 s: which path draws which decides what must be active on noisy, rising demand."""
    wake = LeadTime((0.5, 2.0, 8.0, 30.0))
    serves, _, staged, *farther = ladder(1)
    rungs = (serves, replace(staged, lead_time=wake), *farther)
    targets = (replace(target("a"), ladder=rungs), replace(target("b"), ladder=rungs))
    random = np.random.default_rng(seed)
    paths = np.linspace(20.0, 200.0, len(STEP_ENDS_S)) * random.gamma(1.0, 1.0, (2, 50, len(STEP_ENDS_S)))
    told = given(targets, (seen(20), seen(20)), paths, budget=PLENTY)

    both = active(ForethawPolicy(), told)

    assert active(ForethawPolicy(), without(told, key("a"))) == {key("b"): both[key("b")]}
    assert active(ForethawPolicy(), replace(told, targets=targets[::-1])) == both


def test_memory_goes_with_its_target() -> None:
    """An HPA held 20 replicas; 350 s later they may go, unless the target left meanwhile and joined anew."""
    hpa, a, b = HpaPolicy(), target("a"), target("b")
    busy = given((a, b), (seen(14), seen(1)), steady((14.0, 1.0)))
    memory = hpa.decide(busy, hpa.initial()).memory
    calm = given((a, b), (replace(seen(1), ready={ACTIVE: 20}), seen(1)), steady((1.0, 1.0)))
    calm = replace(calm, now_s=busy.now_s + 350.0)

    left = hpa.decide(without(calm, a.key), memory).memory

    assert (set(memory), set(left)) == ({a.key, b.key}, {b.key})
    assert active(hpa, calm, memory) == {a.key: 2, b.key: 2}
    assert active(hpa, calm, left) == {a.key: 20, b.key: 2}


def test_keys_sort_and_read_as_kubernetes_names_objects() -> None:
    first, second = TargetKey("prod", "b"), TargetKey("test", "a")

    assert sorted([second, first]) == [first, second]
    assert (str(first), str(SnapshotKey(first, "sha256:1"))) == ("prod/b", "prod/b@sha256:1")
