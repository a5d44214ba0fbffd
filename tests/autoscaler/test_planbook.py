"""The plan book: the newest plan of each pool, found by pool and by target; readers compute nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.planbook import PlanBook, PlanEntry
from policies.keys import TargetKey
from policies.reasons import for_count
from policies.types import Plan, TargetPlan

A, B, C = (TargetKey("default", name) for name in "abc")


def entry(pool: str, at_s: float, *targets: TargetKey, active: int = 1) -> PlanEntry:
    plan = Plan({key: TargetPlan(active, {}, (for_count(0, active),)) for key in targets})
    return PlanEntry(pool, at_s, plan, at_s - 1.0, dict.fromkeys(targets, at_s - 1.0), frozenset())


def test_before_the_first_pass_nothing_is_known_of_pool_or_target() -> None:
    book = PlanBook()

    assert (book.of_pool("one"), book.of_target(A)) == (None, None)


def test_the_newest_entry_of_a_pool_answers_for_each_of_its_targets() -> None:
    book, first, second = PlanBook(), entry("one", 2.0, A, B), entry("one", 4.0, A, B, active=3)

    book.publish(first)
    assert (book.of_pool("one"), book.of_target(A), book.of_target(B)) == (first, first, first)
    book.publish(second)

    assert (book.of_pool("one"), book.of_target(A), book.of_target(B)) == (second, second, second)
    assert book.of_target(A) is book.of_target(B), "two answers of one moment stand on one plan"


def test_a_target_that_is_no_longer_planned_is_unknown_and_not_at_zero() -> None:
    book = PlanBook()
    book.publish(entry("one", 2.0, A, B))
    book.publish(entry("one", 4.0, A))

    assert book.of_target(B) is None
    assert book.of_target(A) == entry("one", 4.0, A)


def test_pools_are_independent() -> None:
    book, one, two = PlanBook(), entry("one", 2.0, A), entry("two", 3.0, B, C)
    book.publish(one)
    book.publish(two)

    assert [book.of_target(key) for key in (A, B, C)] == [one, two, two]
    assert (book.of_pool("one"), book.of_pool("two"), book.of_pool("three")) == (one, two, None)


def test_a_target_that_moves_to_another_pool_is_answered_from_there_whichever_pool_passes_first() -> None:
    book = PlanBook()
    book.publish(entry("one", 2.0, A, B))
    book.publish(entry("two", 3.0, B))
    assert book.of_target(B) == entry("two", 3.0, B)

    book.publish(entry("one", 4.0, A))
    assert book.of_target(B) == entry("two", 3.0, B)


def test_the_age_of_a_plan_is_seconds_since_its_decision() -> None:
    assert entry("one", 2.0, A).age_s(9.5) == 7.5


pools = st.sampled_from(["one", "two", "three"])


@given(st.lists(st.tuples(pools, st.sets(st.sampled_from([A, B, C]))), max_size=12))
def test_a_target_is_answered_from_the_newest_plan_that_names_it_while_its_pool_still_does(
    published: list[tuple[str, set[TargetKey]]],
) -> None:
    book, newest = PlanBook(), dict[str, PlanEntry]()
    owner: dict[TargetKey, str] = {}
    for at, (pool, keys) in enumerate(published):
        newest[pool] = entry(pool, float(at), *sorted(keys))
        book.publish(newest[pool])
        owner = {k: p for k, p in owner.items() if p != pool} | dict.fromkeys(keys, pool)

    for key in (A, B, C):
        assert book.of_target(key) == (newest[owner[key]] if key in owner else None)
    for pool in ("one", "two", "three"):
        assert book.of_pool(pool) == newest.get(pool)
