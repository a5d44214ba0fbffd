"""Every GPU-second is counted once, and GPUs are chosen so that whole groups stay whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.world.ledger import POOL_STATES, TARGET_STATES, Ledger
from simulations.world.nodes import Nodes

moves = st.lists(
    st.tuples(st.floats(0.0, 50.0), st.integers(0, 12), st.integers(0, 12), st.integers(0, 5)), max_size=30
)


@given(moves, st.floats(0.0, 100.0))
def test_gpu_seconds_add_up_to_the_pools_whatever_moves(
    steps: list[tuple[float, int, int, int]], since_s: float
) -> None:
    """Two targets' five states and the pool's three: their integrals always sum to GPUs x scored time."""
    ledger = Ledger(2, 40, duration_s=500.0, bucket_s=60.0, since_s=since_s)
    now = 0.0
    for wait_s, source, sink, gpus in steps:
        now += wait_s
        ledger.advance(now)
        ledger.move(gpus, source, sink)
    ledger.advance(now + 10.0)

    scored_s = max(now + 10.0 - since_s, 0.0)
    assert ledger.total() == pytest.approx(40 * scored_s, abs=1e-6)
    by_state = sum(ledger.gpu_seconds(None, s) for s in (*TARGET_STATES, *POOL_STATES))
    assert by_state == pytest.approx(ledger.total(), abs=1e-6)


def test_buckets_hold_the_means() -> None:
    """4 GPUs serve from 30 s to 90 s: half of the first minute, half of the second."""
    ledger = Ledger(1, 10, duration_s=120.0, bucket_s=60.0, since_s=0.0)
    ledger.advance(30.0)
    ledger.move(4, ledger.slot(0, "lent"), ledger.slot(0, "active"))
    ledger.advance(90.0)
    ledger.move(4, ledger.slot(0, "active"), ledger.slot(0, "spare"))
    ledger.advance(120.0)

    assert list(ledger.bucket_gpus(0, "active")) == [2.0, 2.0]
    assert list(ledger.bucket_gpus(None, "spare")) == [0.0, 2.0]
    assert ledger.gpu_seconds(None, "lent") == 30 * 10 + 60 * 6 + 30 * 6


def test_the_warm_up_is_not_scored() -> None:
    ledger = Ledger(1, 10, duration_s=120.0, bucket_s=60.0, since_s=100.0)
    ledger.advance(120.0)

    assert ledger.total() == 200.0


def test_a_drains_exact_end_is_put_right_without_losing_a_second() -> None:
    ledger = Ledger(1, 10, duration_s=60.0, bucket_s=60.0, since_s=0.0)
    ledger.move(2, ledger.slot(0, "lent"), ledger.slot(0, "draining"))
    ledger.advance(10.0)
    ledger.correct(2 * 4.0, ledger.slot(0, "draining"), ledger.slot(0, "spare"), 6.0)

    assert ledger.gpu_seconds(0, "draining") == 12.0
    assert ledger.gpu_seconds(None, "spare") == 8.0
    assert ledger.total() == 100.0


def test_a_replica_takes_the_node_with_the_fewest_spares_that_suffice() -> None:
    nodes = Nodes(24, 8, 0, whole_nodes=False)
    for node, spare in zip(nodes.all, (8, 4, 2), strict=True):
        node.spare, node.lent = spare, 8 - spare

    assert [nodes.with_spare(g) and nodes.with_spare(g).name for g in (1, 3, 5)] == ["node-002", "node-001", "node-000"]
    assert nodes.with_spare(9) is None


def test_lent_gpus_come_back_where_spares_already_are() -> None:
    nodes = Nodes(16, 8, 0, whole_nodes=False)
    nodes.all[1].spare, nodes.all[1].lent = 3, 5

    assert [(n.name, g) for n, g in nodes.take_back(7)] == [("node-001", 5), ("node-000", 2)]


def test_whole_nodes_come_and_go_as_a_whole() -> None:
    nodes = Nodes(16, 8, 0, whole_nodes=True)
    assert [(n.name, g) for n, g in nodes.take_back(3)] == [("node-000", 8)]

    nodes.all[0].lent, nodes.all[0].spare = 0, 7
    assert nodes.to_lend(7) == []

    nodes.all[0].spare = 8
    assert [(n.name, g) for n, g in nodes.to_lend(8)] == [("node-000", 8)]


def test_buckets_cover_the_whole_replay_when_the_last_is_short() -> None:
    ledger = Ledger(1, 1, duration_s=90.0, bucket_s=60.0, since_s=0.0)
    ledger.advance(90.0)

    assert np.sum(ledger.bucket_gpus(None, "lent")) * 60.0 == 90.0
