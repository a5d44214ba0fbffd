"""One column of text as numbers or times, or a refusal that points at the first field that is wrong.

The whole column is tried at once, which is fast; only when that fails are its fields looked at one
by one. The tables come from `tables.py`; `records.py` says which column must be what.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from simulations.traces.arrays import IntArray
from simulations.traces.tables import Block

MOST_TOKENS = 2**31 - 1
UTC_SHAPE = re.compile(r"(19[789]\d|20\d\d)-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,9})?)?")


def numbers(block: Block, field: str) -> FloatArray:
    """Return a column as finite numbers, (rows,)."""
    try:
        values = np.array(block.columns[field], dtype=np.float64)
    except ValueError:
        row = next(row for row, text in enumerate(block.columns[field]) if not _is_number(text))
        raise block.refusal(row, field, "this is not a number", "give a finite number") from None
    refuse_where(block, field, ~np.isfinite(values), "this is not finite", "give a finite number")
    return values


def not_negative(block: Block, field: str) -> FloatArray:
    """Return a column as finite numbers from 0 up, (rows,)."""
    values = numbers(block, field)
    refuse_where(block, field, values < 0, "this is negative", "give a number from 0 up")
    return values


def whole_numbers(block: Block, field: str, most: int = MOST_TOKENS) -> IntArray:
    """Return a column as whole numbers from 0 to `most`, (rows,)."""
    values = numbers(block, field)
    hint = f"give a whole number from 0 to {most}"
    refuse_where(block, field, values < 0, "this is negative", hint)
    refuse_where(block, field, values != np.floor(values), "this is not a whole number", hint)
    refuse_where(block, field, values > most, "this is too large", hint)
    return values.astype(np.int64)


def utc_ns(block: Block, field: str) -> IntArray:
    """Return a column of UTC times such as `2023-11-16 18:17:03.9799600` as ns since 1970, (rows,).

    A trailing `Z` or `+00:00` is understood; another offset is refused.
    """
    texts = [text.strip().removesuffix("Z").removesuffix("+00:00") for text in block.columns[field]]
    try:
        # NumPy alone would also take "now", other offsets and years that overflow.
        if all(map(UTC_SHAPE.fullmatch, texts)):
            return np.array(texts, dtype="datetime64[ns]").astype(np.int64)
    except ValueError:
        pass
    row = next(row for row, text in enumerate(texts) if not _is_utc(text))
    raise block.refusal(row, field, "this is not a time in UTC", "write times such as 2023-11-16 18:17:03.979")


def refuse_where(block: Block, field: str, wrong: NDArray[np.bool_], problem: str, hint: str) -> None:
    """InputError at the first row where `wrong` (rows,) is set."""
    if wrong.any():
        raise block.refusal(int(wrong.argmax()), field, problem, hint)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_utc(text: str) -> bool:
    if not UTC_SHAPE.fullmatch(text):
        return False
    try:
        np.datetime64(text, "ns")
    except ValueError:
        return False
    return True
