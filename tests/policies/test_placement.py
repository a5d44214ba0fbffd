"""Snapshots lie near the GPUs that their target may wake on."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.placement import WakeNeed, place_snapshots
from tests.policies.worlds import nodes, target


def need(name: str, gpus: float, worth: float, artifact_bytes: int = 10) -> WakeNeed:
    return WakeNeed(replace(target(name), artifact_bytes=artifact_bytes), gpus, worth)


def test_with_room_for_all_everything_is_everywhere() -> None:
    placed = place_snapshots(
        (need("a", 1, 1.0), need("b", 1, 1.0)), nodes((), 3), dict.fromkeys(["node-0", "node-1", "node-2"], 20)
    )

    assert all(set(t) == {"a", "b"} for t in placed.values())


def test_scarce_caches_hold_what_is_worth_most_per_byte_first() -> None:
    """Room for one artifact a node; a's wakes are worth ten times b's, and one node covers a twice."""
    placed = place_snapshots((need("b", 4, 1.0), need("a", 4, 10.0)), nodes((), 2), {"node-0": 10, "node-1": 10})

    assert placed == {"node-0": ("a",), "node-1": ("b",)}


def test_a_snapshot_that_lies_there_already_is_not_fetched_elsewhere() -> None:
    first, second = nodes((), 2)
    holding = (first, replace(second, snapshots=frozenset({"a"})))

    assert place_snapshots((need("a", 4, 1.0),), holding, {"node-0": 0, "node-1": 10}) == {
        "node-0": (),
        "node-1": ("a",),
    }
    one = place_snapshots((need("a", 4, 1.0), need("b", 4, 0.5)), holding, {"node-0": 10, "node-1": 10})
    assert one == {"node-0": ("b",), "node-1": ("a",)}


def test_nodes_with_more_gpus_to_wake_on_come_first() -> None:
    first, second = nodes((), 2)
    pool = (replace(first, lent_gpus=1), second)

    assert place_snapshots((need("a", 1, 1.0), need("b", 8, 0.1)), pool, {"node-0": 10, "node-1": 10})["node-1"] == (
        "a",
    )


def test_a_replica_larger_than_a_node_is_placed_nowhere() -> None:
    big = WakeNeed(target("a", gpus=16), 16, 1.0)

    assert place_snapshots((big,), nodes((), 1), {"node-0": 100}) == {"node-0": ()}


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 100), st.integers(1, 40)), min_size=1, max_size=6),
    st.integers(0, 60),
    st.integers(1, 6),
)
def test_caches_are_never_overfilled_and_the_choice_repeats(
    wants: list[tuple[float, float, int]], cache: int, count: int
) -> None:
    needs = tuple(need(f"t{i}", gpus, worth, size) for i, (gpus, worth, size) in enumerate(wants))
    sizes = {n.target.name: n.target.artifact_bytes for n in needs}
    caches = {f"node-{i}": cache for i in range(count)}

    placed = place_snapshots(needs, nodes((), count), caches)

    assert placed == place_snapshots(needs, nodes((), count), caches)
    for names in placed.values():
        assert len(set(names)) == len(names)
        assert sum(sizes[n] for n in names) <= cache
