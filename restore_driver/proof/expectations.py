"""Compare answers with expectations: pure, from a response's body to a verdict.

`observe` extracts from one answer what is compared, `settle` turns the answers recorded before the dump into what is
expected, `judge` refuses a later answer that differs.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from restore_driver.wire.replica_spec import (
    ExactText,
    Expectation,
    JsonSubset,
    Matches,
    NumbersWithin,
    SameAsBefore,
)

LONGEST_RECORDED_BYTES = 1 << 18
"""Limit on a recorded answer, since it is part of the manifest."""


class UnexpectedAnswerError(ValueError):
    """An answer is not as expected; the message says why, without naming the request."""


class Recorded(BaseModel):
    """What was recorded before the dump: the answer, or for numbers their medians and spreads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Any = None
    medians: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()


def repeats(expect: Expectation) -> int:
    """Return how often a request is made before the dump; twice shows an answer that varies."""
    if isinstance(expect, NumbersWithin):
        return expect.repeats
    return 2 if isinstance(expect, SameAsBefore) else 1


def observe(expect: Expectation, body: str) -> Any:
    """Return the part of a body that is compared.

    Raises:
        UnexpectedAnswerError: it is not JSON, or lacks what a pointer names.
    """
    if isinstance(expect, SameAsBefore):
        return body if not expect.pointers else [pointed(_json(body), pointer) for pointer in expect.pointers]
    if isinstance(expect, NumbersWithin):
        return _numbers([pointed(_json(body), pointer) for pointer in expect.pointers])
    if isinstance(expect, JsonSubset):
        return _json(body)
    return body


def settle(expect: Expectation, seen: list[Any]) -> Recorded:
    """Return what to expect, from all answers before the dump.

    Raises:
        UnexpectedAnswerError: an answer is not as expected even before the dump, or the answers differ.
    """
    if isinstance(expect, NumbersWithin):
        return _settle_numbers(seen)
    for later in seen:
        if isinstance(expect, SameAsBefore) and later != seen[0]:
            raise UnexpectedAnswerError(
                f"first {shown(seen[0])}, then {shown(later)}: compare only what stays the same (pointers)"
            )
        judge(expect, Recorded(answer=seen[0]), later)
    if not isinstance(expect, SameAsBefore):
        return Recorded()
    if len(json.dumps(seen[0])) > LONGEST_RECORDED_BYTES:
        raise UnexpectedAnswerError(
            f"an answer of more than {LONGEST_RECORDED_BYTES:,} bytes: compare less of it (pointers)"
        )
    return Recorded(answer=seen[0])


def judge(expect: Expectation, before: Recorded, got: Any) -> None:
    """Accept an answer that is as expected.

    Raises:
        UnexpectedAnswerError: with the actual and the expected answer.
    """
    if isinstance(expect, NumbersWithin):
        _judge_numbers(expect, before, got)
    elif isinstance(expect, SameAsBefore):
        _demand(got, f"{shown(before.answer)} as before", holds=got == before.answer)
    elif isinstance(expect, ExactText):
        _demand(got, shown(expect.text), holds=got == expect.text)
    elif isinstance(expect, Matches):
        _demand(got, f"a match of {expect.pattern!r}", holds=re.search(expect.pattern, got) is not None)
    else:
        _demand(got, f"at least {shown(expect.contains)}", holds=_contains(got, expect.contains))


def pointed(body: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer (RFC 6901).

    Raises:
        UnexpectedAnswerError: there is no such value.
    """
    value = body
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(name)] if isinstance(value, list) and name.isdecimal() else value[name]
        except (KeyError, IndexError, TypeError):
            raise UnexpectedAnswerError(f"nothing at {pointer} in {shown(body)}") from None
    return value


def shown(value: Any) -> str:
    """Return a value as JSON, cut to 120 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:117] + "..."


def _settle_numbers(rows: list[list[float]]) -> Recorded:
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise UnexpectedAnswerError(f"{sorted({len(row) for row in rows})} numbers from one time to the next")
    if not all(math.isfinite(number) for row in rows for number in row):
        raise UnexpectedAnswerError("a number that is not finite")
    columns = [sorted(column) for column in zip(*rows, strict=True)]
    return Recorded(
        medians=tuple(column[len(column) // 2] for column in columns),
        spreads=tuple(column[-1] - column[0] for column in columns),
    )


def _judge_numbers(expect: NumbersWithin, before: Recorded, numbers: list[float]) -> None:
    if len(numbers) != len(before.medians):
        raise UnexpectedAnswerError(f"{len(numbers)} numbers, expected {len(before.medians)} as before")
    for median, spread, number in zip(before.medians, before.spreads, numbers, strict=True):
        tolerance = expect.tolerance(median, spread)
        if not abs(number - median) <= tolerance:  # NaN is never within
            raise UnexpectedAnswerError(f"{number}, expected {median} within {tolerance:.3g}")


def _demand(got: Any, expected: str, *, holds: bool) -> None:
    if not holds:
        raise UnexpectedAnswerError(f"{shown(got)}, expected {expected}")


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and _contains(whole[name], value) for name, value in part.items()
        )
    return type(whole) is type(part) and bool(whole == part)


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UnexpectedAnswerError(f"{shown(body)}, which is not JSON") from None


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for member in value for number in _numbers(member)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [float(value)]
    raise UnexpectedAnswerError(f"{shown(value)}, which is no number")
