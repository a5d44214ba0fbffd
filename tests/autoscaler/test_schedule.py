"""When passes are due: named by the pass before, brought forward by pokes, never too close together."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.schedule import LEAST_GAP_S, Schedule
from policies.keys import TargetKey

A, B, C = (TargetKey("default", name) for name in "abc")


def two_pools() -> Schedule:
    """Pool `one` of targets a and b, due at 10 s, and pool `two` of target c, due at 12 s."""
    return Schedule().with_pool("one", frozenset({A, B}), 10.0).with_pool("two", frozenset({C}), 12.0)


def test_pools_are_due_in_the_order_of_their_moments_and_ties_go_by_name() -> None:
    schedule = two_pools()
    assert schedule.next() == ("one", 10.0)

    schedule = schedule.after_pass("one", 10.0, 14.0)
    assert schedule.next() == ("two", 12.0)

    schedule = schedule.after_pass("two", 12.0, 14.0)
    assert schedule.next() == ("one", 14.0)


def test_a_poke_makes_the_targets_pool_due_now_and_no_other() -> None:
    schedule = two_pools().after_pass("one", 10.0, 25.0).after_pass("two", 12.0, 27.0)

    assert schedule.poke(C, 15.0).due_s == {"one": 25.0, "two": 15.0}
    assert schedule.poke(B, 15.0).due_s == {"one": 15.0, "two": 27.0}


def test_a_poke_right_after_a_pass_waits_for_the_least_gap() -> None:
    schedule = two_pools().after_pass("one", 10.0, 25.0)

    assert schedule.poke(A, 10.05).due_s["one"] == 10.0 + LEAST_GAP_S
    assert schedule.poke(A, 10.0 + LEAST_GAP_S).due_s["one"] == 10.0 + LEAST_GAP_S


def test_a_poke_delays_no_pass_that_is_due_sooner() -> None:
    schedule = two_pools().after_pass("one", 10.0, 10.1)

    assert schedule.poke(A, 10.0).due_s["one"] == 10.1
    assert two_pools().poke(A, 11.0).due_s["one"] == 10.0


def test_a_storm_of_pokes_is_one_pass() -> None:
    """A thousand pokes within a tenth of a second: one pass at the gap's end, the next when that one says."""
    schedule, passes = two_pools().after_pass("one", 10.0, 25.0), []
    for poke in range(1000):
        now_s = 10.0 + poke * 1e-4
        schedule = schedule.poke((A, B)[poke % 2], now_s)
        if schedule.due_s["one"] <= now_s:
            passes.append(now_s)
            schedule = schedule.after_pass("one", now_s, now_s + 15.0)

    assert passes == []
    assert schedule.next() == ("one", 10.0 + LEAST_GAP_S)
    schedule = schedule.after_pass("one", 10.0 + LEAST_GAP_S, 25.0 + LEAST_GAP_S)
    assert schedule.due_s["one"] == 25.0 + LEAST_GAP_S


def test_a_poke_of_a_target_of_no_pool_is_a_key_error_and_changes_nothing() -> None:
    schedule = two_pools()

    with pytest.raises(KeyError, match="stranger"):
        schedule.poke(TargetKey("default", "stranger"), 5.0)
    assert schedule == two_pools()


def test_without_pools_there_is_no_next_pass() -> None:
    with pytest.raises(ValueError, match="empty"):
        Schedule().next()


def test_a_known_pool_keeps_its_moment_when_its_targets_change() -> None:
    """`b` has left pool one, and moved to pool two."""
    schedule = two_pools().with_pool("one", frozenset({A}), 99.0)
    assert schedule.due_s == {"one": 10.0, "two": 12.0}
    with pytest.raises(KeyError):
        schedule.poke(B, 5.0)

    moved = schedule.with_pool("two", frozenset({B, C}), 99.0)
    assert moved.poke(B, 5.0).due_s == {"one": 10.0, "two": 5.0}


MOMENTS = st.floats(0.0, 100.0)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["poke", "pass"]), st.sampled_from([A, B, C]), MOMENTS), max_size=30),
    interval_s=st.floats(0.5, 20.0),
)
def test_passes_of_a_pool_are_never_closer_than_the_least_gap_nor_later_than_asked(
    steps: list[tuple[str, TargetKey, float]], interval_s: float
) -> None:
    """Pokes at any moments; a pass runs whenever one is due. Each poke is followed by a pass within the gap."""
    schedule = two_pools()
    began: dict[str, list[float]] = {"one": [], "two": []}
    for kind, target, now_s in sorted(steps, key=lambda step: step[2]):
        while (due := schedule.next())[1] <= now_s:
            pool, at_s = due
            began[pool].append(at_s)
            schedule = schedule.after_pass(pool, at_s, at_s + interval_s)
        if kind == "poke":
            before = schedule
            schedule = schedule.poke(target, now_s)
            pool = schedule.pool_of[target]
            assert schedule.due_s[pool] <= min(before.due_s[pool], now_s + LEAST_GAP_S)
            assert schedule.poke(target, now_s) == schedule
    for moments in began.values():
        gaps_s = [later - earlier for earlier, later in pairwise(moments)]
        assert all(LEAST_GAP_S - 1e-9 <= gap_s <= interval_s + 1e-9 for gap_s in gaps_s)
