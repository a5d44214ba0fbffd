"""Snapshots lie near the GPUs that their target may wake on, and stay there unless moving them pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.keys import SnapshotKey
from policies.placement import (
    DOUBT,
    FETCH_BYTES_PER_S,
    STANDS_S,
    Settled,
    WakeNeed,
    place_snapshots,
    settled,
    wake_needs,
)
from policies.types import NodeObservation
from tests.policies.makers import node, snapshot, spec

Placed = dict[str, tuple[SnapshotKey, ...]]
GB = 10**9


def need(name: str, gpus: float, worth: float, artifact_bytes: int = 10, shape: int = 1) -> WakeNeed:
    return WakeNeed(spec(name, gpus=shape, artifact_bytes=artifact_bytes), gpus, worth)


def kept(needs: tuple[WakeNeed, ...]) -> Settled:
    """What a decision hands to the next of its needs."""
    return {w.target.key: (w.gpus, w.worth) for w in needs}


def pool(count: int, lying: tuple[str, ...] = ()) -> tuple[NodeObservation, ...]:
    return tuple(node(f"n{i}", lent=8, lying=lying) for i in range(count))


def place(
    needs: tuple[WakeNeed, ...], nodes: tuple[NodeObservation, ...], cache: int, previous: Placed | None = None
) -> dict[str, list[str]]:
    """Place with `cache` bytes on every node; the names of the targets per node."""
    placed = place_snapshots(needs, nodes, {n.name: cache for n in nodes}, previous or {})
    return {name: [s.target.name for s in snapshots] for name, snapshots in placed.items()}


def obeyed(nodes: tuple[NodeObservation, ...], placed: Placed) -> tuple[NodeObservation, ...]:
    """The nodes once every fetch and eviction of a placement is done."""
    return tuple(replace(n, snapshots=frozenset(placed[n.name])) for n in nodes)


def test_with_room_for_all_everything_is_everywhere() -> None:
    placed = place((need("a", 1, 1.0), need("b", 1, 1.0)), pool(3), cache=20)

    assert all(set(names) == {"a", "b"} for names in placed.values())


def test_scarce_caches_hold_what_is_worth_most_per_byte_first() -> None:
    """Room for one artifact a node; a's wakes are worth ten times b's, and one node covers a twice."""
    assert place((need("b", 4, 1.0), need("a", 4, 10.0)), pool(2), cache=10) == {"n0": ["a"], "n1": ["b"]}


def test_a_snapshot_that_lies_there_already_is_not_fetched_elsewhere() -> None:
    first, second = node("n0", lent=8), node("n1", lent=8, lying=("a",))

    assert place((need("a", 4, 1.0), need("b", 4, 0.5)), (first, second), cache=10) == {"n0": ["b"], "n1": ["a"]}


def test_one_that_is_being_fetched_counts_like_one_that_lies_there() -> None:
    first, second = node("n0", lent=8), node("n1", lent=8, fetching=("a",))

    assert place((need("a", 4, 1.0), need("b", 4, 0.5)), (first, second), cache=10) == {"n0": ["b"], "n1": ["a"]}


def test_one_that_was_placed_before_and_is_not_yet_fetched_stays_where_it_was_placed() -> None:
    before: Placed = {"n1": (snapshot("a"),)}

    assert place((need("a", 4, 1.0), need("b", 4, 0.5)), pool(2), 10, before) == {"n0": ["b"], "n1": ["a"]}


def test_nodes_with_more_idle_gpus_come_first() -> None:
    nodes = (node("n0", lent=1), node("n1", lent=5))

    assert place((need("a", 1, 1.0), need("b", 8, 0.1)), nodes, cache=10) == {"n1": ["a"], "n0": ["b"]}


def test_a_replica_larger_than_a_node_is_placed_nowhere() -> None:
    assert place((need("a", 16, 1.0, shape=16),), pool(1), cache=100) == {"n0": []}


def test_a_node_that_is_not_there_yet_gets_no_entry() -> None:
    assert place((need("a", 1, 1.0),), (node("n0"), node("n1", absent=True)), cache=100) == {"n0": ["a"]}


def test_a_target_without_a_snapshot_is_left_out() -> None:
    none = replace(need("a", 1, 1.0), target=replace(spec("a"), snapshot=None))

    assert place((none, need("b", 1, 1.0)), pool(1), cache=100) == {"n0": ["b"]}


def test_an_artifact_that_is_too_large_for_what_is_left_does_not_block_those_behind_it() -> None:
    """25 bytes: a takes 10, b's 20 do not fit, c's 10 do."""
    needs = (need("a", 8, 9.0), need("b", 8, 8.0, artifact_bytes=20), need("c", 8, 0.1))

    assert place(needs, pool(1), cache=25) == {"n0": ["a", "c"]}


def test_an_old_snapshot_of_a_target_is_not_kept_for_its_new_one() -> None:
    """Another digest serves no wake: it has no need, so it is not placed again."""
    old = replace(node("n0", lent=8), snapshots=frozenset({SnapshotKey(spec("a").key, "v0")}))

    assert place_snapshots((need("a", 1, 1.0),), (old,), {"n0": 10}, {}) == {"n0": (snapshot("a"),)}


def test_a_snapshot_gives_way_to_one_that_is_worth_more_by_both_fetches_and_not_to_less() -> None:
    """One node with room for one artifact of 70 GB: a fetch is 70 GPU-seconds, and a newcomer counts half."""
    fetches_s = 2 * 70 * GB / FETCH_BYTES_PER_S
    least = (1.0 + fetches_s / STANDS_S) / DOUBT
    nodes = pool(1, lying=("a",))

    def after(worth: float) -> list[str]:
        return place((need("a", 4, 1.0, 70 * GB), need("b", 4, worth, 70 * GB)), nodes, 70 * GB)["n0"]

    assert (after(least - 0.01), after(least + 0.01)) == (["a"], ["b"])


def test_a_copy_beyond_the_cover_makes_room_for_a_snapshot_that_lies_nowhere() -> None:
    """a lies on three nodes where one covers it twice over; b is worth its fetch."""
    placed = place((need("a", 4, 50.0, 70 * GB), need("b", 4, 5.0, 70 * GB)), pool(3, lying=("a",)), 70 * GB)

    assert sorted(placed.values()) == [["a"], ["a"], ["b"]]


def noisy(base: list[float], random: np.random.Generator) -> tuple[WakeNeed, ...]:
    """Worths that are off by up to a half either way, as single forecasts are."""
    return tuple(need(f"t{i:02}", 4, w * random.uniform(0.5, 1.5), 70 * GB) for i, w in enumerate(base))


def test_noise_on_what_wakes_are_worth_moves_no_snapshot_where_caches_are_scarce() -> None:
    """20 targets of 70 GB on 6 nodes with room for 2 each, placed every 30 s for 20 min: no move after the first."""
    random = np.random.default_rng(7)
    base = [10.0] * 20
    nodes, moves = pool(6), []
    needs = noisy(base, random)
    placed: Placed = {}
    for _ in range(40):
        before, placed = placed, place_snapshots(needs, nodes, {n.name: 150 * GB for n in nodes}, placed)
        moves.append(sum(len(set(placed[n.name]) - set(before.get(n.name, ()))) for n in nodes))
        nodes = obeyed(nodes, placed)
        needs = settled(noisy(base, random), kept(needs), 30.0)

    assert moves == [12] + [0] * 39


def test_a_lasting_change_of_worth_does_move_a_snapshot() -> None:
    """b becomes worth ten times as much as a: with needs averaged over 5 min it has come within those 5 min."""
    nodes = pool(1, lying=("a",))
    needs: tuple[WakeNeed, ...] = (need("a", 4, 10.0, 70 * GB), need("b", 4, 10.0, 70 * GB))
    now = (needs[0], need("b", 4, 100.0, 70 * GB))
    at = []
    for _ in range(10):
        needs = settled(now, kept(needs), 30.0)
        at.append(place(needs, nodes, 70 * GB)["n0"])

    assert at[0] == ["a"] and at[-1] == ["b"]


def test_needs_settle_by_key_and_forget_exponentially() -> None:
    """After STANDS_S a change has come through to 1 - 1/e; a target that is new counts at once."""
    before = kept((need("gone", 1, 1), need("a", 1.0, 1.0)))
    (a, new) = settled((need("a", 9.0, 3.0), need("b", 5.0, 5.0)), before, STANDS_S)

    assert [a.gpus, a.worth] == pytest.approx([9.0 - 8.0 / np.e, 3.0 - 2.0 / np.e])
    assert new == need("b", 5.0, 5.0)


def test_a_need_is_what_nearly_every_path_requires_above_the_active_replicas() -> None:
    """Of 100 paths one requires 50 more and ten 3 more: 3 replicas of 2 GPUs; each missing costs 20 a second."""
    required = np.full((1, 100), 4.0)
    required[0, :11] = [54.0] + [7.0] * 10
    target = spec("a", gpus=2)

    (got,) = wake_needs((target,), required, np.array([4.0]))

    assert (got.target, got.gpus) == (target, 6.0)
    assert got.worth == pytest.approx(20.0 * (50 + 30 + 1) / 101)


def test_a_need_is_never_nothing_since_what_no_path_shows_may_still_come() -> None:
    """One replica's GPUs, at the worth of one path more on which one replica is missing."""
    without = replace(spec("b"), snapshot=None)

    (got,) = wake_needs((spec("a", gpus=2), without), np.zeros((2, 99)), np.zeros(2))

    assert [got.gpus, got.worth] == pytest.approx([2.0, 20.0 / 100])


fleets = st.lists(
    st.tuples(st.floats(1.0, 50.0), st.floats(0.0, 100.0), st.integers(1, 40), st.sampled_from([1, 2, 4, 8])),
    min_size=1,
    max_size=6,
)
hosts = st.lists(
    st.tuples(st.sampled_from([1, 4, 8]), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5))),
    min_size=1,
    max_size=5,
)


def drawn_nodes(drawn: list[tuple[int, set[int], set[int]]]) -> tuple[NodeObservation, ...]:
    return tuple(
        node(f"n{i}", gpus, lent=gpus, lying=tuple(f"t{j}" for j in lie), fetching=tuple(f"t{j}" for j in fetch))
        for i, (gpus, lie, fetch) in enumerate(drawn)
    )


@given(fleets, hosts, st.integers(0, 90))
def test_caches_are_never_overfilled_and_filled_for_as_long_as_anything_fits(
    wants: list[tuple[float, float, int, int]], drawn: list[tuple[int, set[int], set[int]]], cache: int
) -> None:
    needs = tuple(need(f"t{i}", *want) for i, want in enumerate(wants))
    nodes = drawn_nodes(drawn)
    caches = {n.name: cache for n in nodes}
    by_key = {n.target.snapshot: n.target for n in needs}

    placed = place_snapshots(needs, nodes, caches, {})

    assert placed == place_snapshots(needs[::-1], nodes[::-1], caches, {})
    for host in nodes:
        here = placed[host.name]
        left = cache - sum(by_key[s].artifact_bytes for s in here)
        assert left >= 0 and len(set(here)) == len(here)
        assert all(by_key[s].gpus_per_replica <= host.gpus for s in here)
        others = [t for s, t in by_key.items() if s not in here and t.gpus_per_replica <= host.gpus]
        assert all(t.artifact_bytes > left for t in others)


@given(fleets, hosts, st.integers(0, 90))
def test_placements_come_to_rest_while_needs_stay(
    wants: list[tuple[float, float, int, int]], drawn: list[tuple[int, set[int], set[int]]], cache: int
) -> None:
    """Each node is filled given the others, so a few rounds may follow on one another, and then none."""
    needs = tuple(need(f"t{i}", gpus, worth, size * GB, shape) for i, (gpus, worth, size, shape) in enumerate(wants))
    nodes = drawn_nodes(drawn)
    caches = {n.name: cache * GB for n in nodes}
    before: Placed = {}
    placed: Placed = {}
    for _ in range(8):
        before, placed = placed, place_snapshots(needs, nodes, caches, placed)
        nodes = obeyed(nodes, placed)

    assert {k: set(v) for k, v in placed.items()} == {k: set(v) for k, v in before.items()}
