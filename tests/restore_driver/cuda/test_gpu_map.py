"""The device map: every GPU of the snapshot gets one of its own, and keeps itself where it can."""

from __future__ import annotations

from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.cuda import device_map
from restore_driver.cuda.gpu_map import uuid_to_bytes
from restore_driver.errors import DriverError, Reason

A, B, C, D = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abcd")
UUIDS = st.uuids().map(lambda uuid: f"GPU-{uuid}")


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """As many GPUs on both sides, some on both."""
    pool = draw(st.lists(UUIDS, min_size=1, max_size=12, unique=True))
    count = draw(st.integers(1, len(pool)))
    return draw(st.permutations(pool))[:count], draw(st.permutations(pool))[:count]


@given(sides())
def test_one_to_one_and_identity_wherever_possible(both: tuple[list[str], list[str]]) -> None:
    snapshot, placeholder = both
    found = device_map(snapshot, placeholder)
    mapped = {gpu: gpu for gpu in snapshot} if found is None else found

    assert list(mapped) == list(snapshot)
    assert sorted(mapped.values()) == sorted(placeholder)
    assert {gpu for gpu in mapped if mapped[gpu] == gpu} == set(snapshot) & set(placeholder)


@given(st.lists(UUIDS, min_size=0, max_size=8, unique=True), st.randoms())
def test_the_same_gpus_in_any_order_need_no_map(gpus: list[str], random: Random) -> None:
    assert device_map(gpus, random.sample(gpus, len(gpus))) is None


def test_others_follow_in_order() -> None:
    assert device_map((A, B, C), (D, B, A)) == {A: A, B: B, C: D}
    assert device_map((A, B), (C, D)) == {A: C, B: D}


@pytest.mark.parametrize(
    ("snapshot", "placeholder", "detail"),
    [
        ((A, B), (A,), "the snapshot holds 2 GPUs, the placeholder 1"),
        ((A,), (A, B), "the snapshot holds 1 GPUs, the placeholder 2"),
        ((A, A), (A, B), f"the snapshot names {A} twice"),
        ((A, B), (C, C), f"the placeholder names {C} twice"),
        (("MIG-1",), (A,), "'MIG-1' is no GPU's UUID"),
        ((A,), ("0",), "'0' is no GPU's UUID"),
        ((A,), (A.upper(),), f"{A.upper()!r} is no GPU's UUID"),
    ],
)
def test_refused(snapshot: tuple[str, ...], placeholder: tuple[str, ...], detail: str) -> None:
    with pytest.raises(DriverError) as refused:
        device_map(snapshot, placeholder)

    assert (refused.value.reason, refused.value.detail) == (Reason.FINGERPRINT_MISMATCH, detail)


@given(st.uuids())
def test_a_uuid_is_its_16_bytes(uuid: UUID) -> None:
    assert uuid_to_bytes(f"GPU-{uuid}") == uuid.bytes
