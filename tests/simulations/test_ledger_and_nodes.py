"""The ledger counts every GPU-second exactly once; a node shows awaited GPUs as taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.keys import TargetKey
from simulations.world.ledger import POOL_STATES, TARGET_STATES, Ledger
from simulations.world.nodes import Node, make_nodes

WEB, CHAT = TargetKey("shop", "web"), TargetKey("shop", "chat")
STATES = [*((key, state) for key in (WEB, CHAT) for state in TARGET_STATES), *((None, state) for state in POOL_STATES)]

moves = st.lists(
    st.tuples(st.floats(0.0, 50.0), st.sampled_from(STATES), st.sampled_from(STATES), st.integers(0, 5)), max_size=30
)


@given(moves, st.floats(0.0, 100.0))
def test_gpu_seconds_of_all_states_sum_to_pool_gpus_times_scored_time(
    steps: list[tuple[float, tuple[TargetKey | None, str], tuple[TargetKey | None, str], int]], since_s: float
) -> None:
    """Any moves between two targets' five states and the pool's four; GPUs begin absent or lent alike."""
    ledger = Ledger((WEB, CHAT), 40, duration_s=500.0, bucket_s=60.0, since_s=since_s)
    now = 0.0
    for wait_s, source, sink, gpus in steps:
        now += wait_s
        ledger.advance(now)
        ledger.move(gpus, ledger.slot(*source), ledger.slot(*sink))
    ledger.advance(now + 10.0)

    scored_s = max(now + 10.0 - since_s, 0.0)
    assert ledger.total() == pytest.approx(40 * scored_s, abs=1e-6)
    by_state = sum(ledger.gpu_seconds(None, s) for s in (*TARGET_STATES, *POOL_STATES))
    assert by_state == pytest.approx(ledger.total(), abs=1e-6)


def test_buckets_hold_the_mean_gpus_of_each_state() -> None:
    """4 GPUs serve from 30 s to 90 s: half of the first minute, half of the second."""
    ledger = Ledger((WEB,), 10, duration_s=120.0, bucket_s=60.0, since_s=0.0)
    ledger.advance(30.0)
    ledger.move(4, ledger.slot(WEB, "lent"), ledger.slot(WEB, "active"))
    ledger.advance(90.0)
    ledger.move(4, ledger.slot(WEB, "active"), ledger.slot(WEB, "spare"))
    ledger.advance(120.0)

    assert list(ledger.bucket_gpus(WEB, "active")) == [2.0, 2.0]
    assert list(ledger.bucket_gpus(None, "spare")) == [0.0, 2.0]
    assert ledger.gpu_seconds(None, "lent") == 30 * 10 + 60 * 6 + 30 * 6


def test_seconds_before_the_warm_up_ends_are_not_scored() -> None:
    ledger = Ledger((WEB,), 10, duration_s=120.0, bucket_s=60.0, since_s=100.0)
    ledger.advance(120.0)

    assert ledger.total() == 200.0


def test_correcting_a_drains_end_moves_gpu_seconds_and_loses_none() -> None:
    ledger = Ledger((WEB,), 10, duration_s=60.0, bucket_s=60.0, since_s=0.0)
    ledger.move(2, ledger.slot(WEB, "lent"), ledger.slot(WEB, "draining"))
    ledger.advance(10.0)
    ledger.correct(2 * 4.0, ledger.slot(WEB, "draining"), ledger.slot(WEB, "spare"), 6.0)

    assert ledger.gpu_seconds(WEB, "draining") == 12.0
    assert ledger.gpu_seconds(None, "spare") == 8.0
    assert ledger.total() == 100.0


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 12))
def test_what_pending_replicas_await_is_neither_free_nor_coming(
    spare: int, lent: int, reclaiming: int, awaited: int
) -> None:
    """A node shows free + coming = spare + reclaiming - awaited, and takes from the free ones first."""
    node = Node("node-000", spare + lent + reclaiming, spare, lent, reclaiming, 0, awaited=awaited)

    seen = node.observation()

    assert seen.free_gpus == max(spare - awaited, 0)
    assert seen.free_gpus + seen.reclaiming_gpus == max(spare + reclaiming - awaited, 0)
    assert seen.lent_gpus == lent


def test_the_last_node_of_a_pool_has_the_rest_of_its_gpus() -> None:
    lent = make_nodes(20, 8, 0, "h100", absent=False)
    absent = make_nodes(20, 8, 0, "h100", absent=True)

    assert [(n.name, n.gpus, n.lent) for n in lent.values()] == [
        ("node-000", 8, 8),
        ("node-001", 8, 8),
        ("node-002", 4, 4),
    ]
    assert [(n.gpus, n.lent, n.absent) for n in absent.values()] == [(8, 0, True), (8, 0, True), (4, 0, True)]


def test_buckets_cover_the_whole_replay_when_the_last_is_short() -> None:
    ledger = Ledger((WEB,), 1, duration_s=90.0, bucket_s=60.0, since_s=0.0)
    ledger.advance(90.0)

    assert np.sum(ledger.bucket_gpus(None, "lent")) * 60.0 == 90.0


def test_gpus_begin_in_the_given_pool_state() -> None:
    ledger = Ledger((WEB,), 8, duration_s=60.0, bucket_s=60.0, since_s=0.0, begin="absent")
    ledger.advance(30.0)
    ledger.move(8, ledger.slot(None, "absent"), ledger.slot(None, "reclaiming"))
    ledger.advance(60.0)

    assert ledger.gpu_seconds(None, "absent") == 8 * 30
    assert ledger.gpu_seconds(None, "reclaiming") == 8 * 30
    assert ledger.gpu_seconds(None, "lent") == 0


def test_a_state_that_does_not_exist_is_a_key_error() -> None:
    ledger = Ledger((WEB,), 8, duration_s=60.0, bucket_s=60.0, since_s=0.0)

    with pytest.raises(KeyError):
        ledger.slot(CHAT, "active")
    with pytest.raises(KeyError):
        ledger.slot(WEB, "stopped")
