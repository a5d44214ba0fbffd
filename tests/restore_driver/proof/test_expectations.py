"""Answers against what is expected of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.proof.expectations import Recorded, UnexpectedAnswerError, judge, observe, pointed, repeats, settle
from restore_driver.wire.replica_spec import ExactText, Expectation, JsonSubset, Matches, NumbersWithin, SameAsBefore

NUMBERS = NumbersWithin(kind="numbers_within", pointers=("/x",))
finite = st.floats(-1e6, 1e6)
rows = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(finite, min_size=width, max_size=width), min_size=2, max_size=6)
)


def before(expect: Expectation, *bodies: str) -> Recorded:
    return settle(expect, [observe(expect, body) for body in bodies])


@given(rows, st.data())
def test_noise_that_was_seen_is_always_within(seen: list[list[float]], data: st.DataObject) -> None:
    record = settle(NUMBERS, seen)
    judge(NUMBERS, record, data.draw(st.sampled_from(seen)))
    assert Recorded.model_validate_json(record.model_dump_json()) == record


@given(rows, st.integers(0, 3), st.sampled_from([-1.0, 1.0]))
def test_what_lies_past_the_tolerance_never_is(seen: list[list[float]], at: int, sign: float) -> None:
    record = settle(NUMBERS, seen)
    at %= len(record.medians)
    wrong = list(record.medians)
    wrong[at] += sign * (1.1 * NUMBERS.tolerance(record.medians[at], record.spreads[at]) + 1e-6)
    with pytest.raises(UnexpectedAnswerError):
        judge(NUMBERS, record, wrong)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_never_within(number: float) -> None:
    with pytest.raises(UnexpectedAnswerError):
        judge(NUMBERS, Recorded(medians=(1.0,), spreads=(1e300,)), [number])
    with pytest.raises(UnexpectedAnswerError, match="not finite"):
        settle(NUMBERS, [[1.0], [number]])


@pytest.mark.parametrize(
    ("expect", "asked_before", "body"),
    [
        (SameAsBefore(), ['{"a": 1}'] * 2, '{"a": 1}'),
        (SameAsBefore(pointers=("/t",)), ['{"t": [1], "id": 7}', '{"t": [1], "id": 8}'], '{"t": [1], "id": 9}'),
        (ExactText(kind="text", text="ok"), ["ok"], "ok"),
        (Matches(kind="regex", pattern="^o"), ["ok"], "oh"),
        (JsonSubset(kind="json", contains={"a": {"b": 1}}), ['{"a": {"b": 1, "c": 2}}'], '{"a": {"b": 1}, "d": 3}'),
        (NUMBERS, ['{"x": [1.0, 2.0]}', '{"x": [1.1, 2.0]}'], '{"x": [1.3, 2.0]}'),
    ],
)  # fmt: skip
def test_answers_within_the_expectation_are_accepted(expect: Expectation, asked_before: list[str], body: str) -> None:
    judge(expect, before(expect, *asked_before), observe(expect, body))


@pytest.mark.parametrize(
    ("expect", "asked_before", "body", "said"),
    [
        (SameAsBefore(), ["a", "a"], "b", '"b", expected "a" as before'),
        (SameAsBefore(pointers=("/t",)), ['{"t": [1]}'] * 2, '{"t": [2]}', "[[2]], expected [[1]] as before"),
        (SameAsBefore(pointers=("/t",)), ['{"t": 1}'] * 2, '{"u": 1}', 'nothing at /t in {"u": 1}'),
        (SameAsBefore(pointers=("/t",)), ['{"t": 1}'] * 2, "<html>", '"<html>", which is not JSON'),
        (ExactText(kind="text", text="ok"), ["ok"], "no", '"no", expected "ok"'),
        (Matches(kind="regex", pattern="^o"), ["ok"], "no", "\"no\", expected a match of '^o'"),
        (JsonSubset(kind="json", contains={"a": 1}), ['{"a": 1}'], '{"a": true}', 'expected at least {"a": 1}'),
        (NUMBERS, ['{"x": 1.0}', '{"x": 1.1}'], '{"x": 1.5}', "1.5, expected 1.1 within 0.3"),
        (NUMBERS, ['{"x": 1.0}'] * 2, '{"x": [1.0, 1.0]}', "2 numbers, expected 1 as before"),
        (NUMBERS, ['{"x": 1.0}'] * 2, '{"x": "1"}', '"1", which is no number'),
    ],
)
def test_answers_that_break_the_expectation_are_refused(
    expect: Expectation, asked_before: list[str], body: str, said: str
) -> None:
    with pytest.raises(UnexpectedAnswerError) as caught:
        judge(expect, before(expect, *asked_before), observe(expect, body))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("expect", "bodies", "said"),
    [
        (SameAsBefore(), ["1", "2"], 'first "1", then "2": compare only what stays the same (pointers)'),
        (SameAsBefore(), ["x" * 300_000] * 2, "more than 262,144 bytes: compare less of it (pointers)"),
        (ExactText(kind="text", text="ok"), ["no"], '"no", expected "ok"'),
        (NUMBERS, ['{"x": [1]}', '{"x": [1, 2]}'], "[1, 2] numbers from one time to the next"),
    ],
)
def test_what_could_never_be_proven_is_refused_before_the_dump(
    expect: Expectation, bodies: list[str], said: str
) -> None:
    with pytest.raises(UnexpectedAnswerError) as caught:
        before(expect, *bodies)
    assert said in str(caught.value)


def test_number_of_recorded_answers_by_expectation() -> None:
    assert [repeats(e) for e in (SameAsBefore(), ExactText(kind="text", text=""), NUMBERS)] == [2, 1, 5]


@given(st.dictionaries(st.text(), st.integers() | st.lists(st.integers(), min_size=1), min_size=1))
def test_a_pointer_finds_every_member(body: dict[str, Any]) -> None:
    body = json.loads(json.dumps(body))
    for name, value in body.items():
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")
        assert pointed(body, pointer) == value
        if isinstance(value, list):
            assert pointed(body, pointer + "/0") == value[0]
    assert pointed(body, "") == body
