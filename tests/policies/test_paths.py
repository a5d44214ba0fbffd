"""Sample paths by key: rows in the order asked for, misfits refused."""

from __future__ import annotations

import numpy as np
import pytest

from policies.keys import TargetKey
from policies.paths import DemandPaths

A, B, C = (TargetKey("default", name) for name in "abc")
ENDS_S = np.array([1.0, 2.0])
PATHS = np.arange(12.0).reshape(2, 3, 2)


def test_rows_come_in_the_order_asked_for_with_what_is_known_of_them() -> None:
    paths = DemandPaths((A, B), ENDS_S, PATHS, frozenset({B}), "some")

    turned = paths.rows((B, A))

    assert (turned.keys, turned.known, turned.model) == ((B, A), frozenset({B}), "some")
    assert np.array_equal(turned.paths, PATHS[::-1])
    assert paths.rows((A,)).known == frozenset()
    assert paths.rows((A, B)) is paths


def test_a_key_without_a_row_is_named() -> None:
    with pytest.raises(KeyError, match="name='c'"):
        DemandPaths((A, B), ENDS_S, PATHS, frozenset()).rows((A, C))


def test_a_key_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        DemandPaths((A, A), ENDS_S, PATHS, frozenset())


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 2), (2, 2, 3)])
def test_paths_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        DemandPaths((A, B), ENDS_S, np.zeros(shape), frozenset())
