"""Retention: invariants for any snapshots and policy, and each rule."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from restore_driver.store.retention import Kept, Retention, RetentionPolicy, decide

NOW_S = 1_000_000.0
DAY_S = 86400.0


def kept(place: str, name: str = "a", days_old: float = 0.0, size: int = 10, locked: bool = False) -> Kept:
    return Kept(place, name, "0" * 16, NOW_S - days_old * DAY_S, size, locked)


def places(plan: Retention) -> list[str]:
    return [removal.snapshot.place for removal in plan.removals]


snapshots = st.lists(
    st.builds(
        Kept,
        place=st.uuids().map(str),
        name=st.sampled_from("abc"),
        digest=st.sampled_from(["0" * 16, "1" * 16]),
        created_unix_s=st.sampled_from([0.0, 1.0, 500_000.0, NOW_S - 1, NOW_S, NOW_S + 5]),
        bytes=st.integers(0, 100),
        locked=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda each: each.place,
)
policies = st.builds(
    RetentionPolicy,
    keep_last=st.none() | st.integers(1, 4),
    max_age_s=st.none() | st.sampled_from([0.5, 1000.0, 600_000.0]),
    quota_bytes=st.none() | st.integers(1, 400),
)


def newest(all_of_them: list[Kept]) -> set[str]:
    found: dict[str, Kept] = {}
    for each in sorted(all_of_them, key=lambda each: (each.created_unix_s, each.digest, each.place)):
        found[each.name] = each
    return {each.place for each in found.values()}


@given(snapshots, policies)
def test_each_snapshot_stays_or_is_removed_with_one_reason(given_: list[Kept], policy: RetentionPolicy) -> None:
    plan = decide(given_, policy, NOW_S)

    assert Counter([*places(plan), *(each.place for each in plan.stays)]) == Counter(each.place for each in given_)
    assert all(removal.reason for removal in plan.removals)


@given(snapshots, policies)
def test_locked_snapshots_and_the_newest_of_each_name_stay(given_: list[Kept], policy: RetentionPolicy) -> None:
    gone = set(places(decide(given_, policy, NOW_S)))

    assert not gone & {each.place for each in given_ if each.locked}
    assert not gone & newest(given_)


@given(snapshots, policies)
def test_all_that_stays_and_may_be_removed_meets_the_rules(given_: list[Kept], policy: RetentionPolicy) -> None:
    plan = decide(given_, policy, NOW_S)
    may_go = [each for each in plan.stays if not each.locked and each.place not in newest(given_)]

    if policy.max_age_s is not None:
        assert all(NOW_S - each.created_unix_s <= policy.max_age_s for each in may_go)
    if policy.keep_last is not None:
        unlocked = Counter(each.name for each in plan.stays if not each.locked or each.place in newest(given_))
        assert all(count <= policy.keep_last for count in unlocked.values())
    if policy.quota_bytes is not None:
        over = sum(each.bytes for each in plan.stays) - policy.quota_bytes
        assert plan.over_quota_bytes == max(0, over)
        assert over <= 0 or not may_go


@given(snapshots, policies, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_the_listing(
    given_: list[Kept], policy: RetentionPolicy, random: object
) -> None:
    shuffled = list(given_)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert decide(shuffled, policy, NOW_S) == decide(given_, policy, NOW_S)


@given(snapshots, policies)
def test_a_second_decision_removes_nothing(given_: list[Kept], policy: RetentionPolicy) -> None:
    assert decide(decide(given_, policy, NOW_S).stays, policy, NOW_S).removals == ()


@given(snapshots)
def test_all_stay_without_rules(given_: list[Kept]) -> None:
    assert decide(given_, RetentionPolicy(), NOW_S).removals == ()


def test_keep_last_counts_by_name() -> None:
    given_ = [kept("a1", "a", 3), kept("a2", "a", 2), kept("a3", "a", 1), kept("b1", "b", 9)]
    plan = decide(given_, RetentionPolicy(keep_last=2), NOW_S)

    assert [(r.snapshot.place, r.reason) for r in plan.removals] == [("a1", "not among the 2 newest of a")]


def test_snapshots_over_the_maximum_age_are_removed_except_the_newest() -> None:
    given_ = [kept("a1", "a", 30), kept("a2", "a", 20), kept("b1", "b", 30), kept("a3", "a", 6)]
    plan = decide(given_, RetentionPolicy(max_age_s=7 * DAY_S), NOW_S)

    assert places(plan) == ["a1", "a2"]
    assert plan.removals[0].reason == "30.0 days old, 7.0 are allowed"


def test_over_the_quota_the_oldest_of_all_names_are_removed() -> None:
    given_ = [kept("a1", "a", 5), kept("b1", "b", 4), kept("a2", "a", 3), kept("b2", "b", 2), kept("a3", "a", 1)]
    plan = decide(given_, RetentionPolicy(quota_bytes=30), NOW_S)

    assert [(r.snapshot.place, r.reason) for r in plan.removals] == [
        ("a1", "the oldest while 20 bytes over the quota"),
        ("b1", "the oldest while 10 bytes over the quota"),
    ]
    assert plan.over_quota_bytes == 0


def test_an_exceeded_quota_is_reported_with_the_excess() -> None:
    plan = decide([kept("a1", days_old=9, locked=True), kept("a2", size=25)], RetentionPolicy(quota_bytes=20), NOW_S)

    assert (plan.removals, plan.over_quota_bytes) == ((), 15)
