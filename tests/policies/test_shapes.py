"""Idle GPUs count only where a whole replica fits on one node."""

from __future__ import annotations

import pytest

from policies.shapes import fitting
from tests.policies.makers import node


def test_four_idle_gpus_on_four_nodes_fit_no_replica_of_four() -> None:
    scattered = [node(f"n{i}", free=1) for i in range(4)]

    assert (fitting(scattered, 1), fitting(scattered, 4)) == (4, 0)


def test_free_lent_and_reclaiming_gpus_of_one_node_count_together() -> None:
    """7 idle GPUs take three replicas of 2, and 5 on the next node two more."""
    nodes = [node("n0", free=2, lent=4, reclaiming=1), node("n1", lent=5)]

    assert fitting(nodes, 2) == 5


def test_a_shape_without_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one GPU, not 0"):
        fitting([], 0)
