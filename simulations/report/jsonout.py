"""A `Comparison` as JSON, and back: the archive that a report can be redrawn from.

Equal comparisons give equal bytes: keys sorted, floats at nine significant digits (more would be
noise of the last float operation, fewer would show in the plots), NaN as null, infinities as the
strings "inf" and "-inf" (JSON has neither). Reading is strict: an unknown or missing field, a wrong
type or another schema version is refused with the path of the field, so that a page is never drawn
from half of a file. The shapes come from the dataclasses in `simulations/results.py`, whose fields
(a mapping, an array) no schema library knows better than their annotations.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.arrays import FloatArray
from simulations.results import Comparison

SCHEMA_VERSION = 1
"""Goes up when a reader of the older form could misread the newer; a new field with a default keeps it."""

SIGNIFICANT_DIGITS = 9


class ReportFormatError(ValueError):
    """The text is not a report that this version can read; the message says where and why."""


def to_json(comparison: Comparison) -> str:
    """One line of JSON with a newline at the end; equal inputs give equal bytes."""
    document = {"schema_version": SCHEMA_VERSION, "comparison": _encoded(comparison)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text + "\n"


def from_json(text: str) -> Comparison:
    """Return the comparison that `to_json` wrote, to its nine digits.

    Raises ReportFormatError for anything else.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportFormatError(f"not JSON: {error}") from error
    if not isinstance(document, dict) or "schema_version" not in document:
        raise ReportFormatError("not a report: no schema_version at the top")
    version = document["schema_version"]
    if version != SCHEMA_VERSION:
        raise ReportFormatError(f"schema_version {version!r}: this version reads {SCHEMA_VERSION}")
    comparison = _decoded(Comparison, document.get("comparison"), "comparison")
    if not isinstance(comparison, Comparison):
        raise ReportFormatError("not a report: no comparison in it")
    return comparison


def _encoded(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encoded(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _encoded(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _encoded_array(value)
    if isinstance(value, (tuple, list)):
        return [_encoded(v) for v in value]
    return _encoded_plain(value)


def _encoded_plain(value: Any) -> Any:
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return _encoded_float(float(value))
    raise TypeError(f"a report cannot hold a {type(value).__name__}")


def _encoded_array(values: FloatArray) -> list[Any]:
    if values.ndim > 1:
        return [_encoded_array(part) for part in values]
    return [_encoded_float(v) for v in values.tolist()]


def _encoded_float(value: float) -> float | str | None:
    if math.isfinite(value):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0  # the sum makes -0.0 and 0.0 one
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"


def _decoded(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `kind` asks, or ReportFormatError naming `where`."""
    if dataclasses.is_dataclass(kind):
        return _decoded_dataclass(typing.cast("type[Any]", kind), value, where)
    if kind is FloatArray or typing.get_origin(kind) is np.ndarray:
        return _decoded_array(value, where)
    if kind is float:
        return _decoded_float(value, where)
    if kind in (int, str, bool):
        if type(value) is not kind:
            raise ReportFormatError(f"{where}: expected {kind.__name__}, found {_described(value)}")
        return value
    return _decoded_generic(kind, value, where)


def _decoded_generic(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        _expect(list, value, where)
        return tuple(_decoded(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is Mapping:
        _expect(dict, value, where)
        return {k: _decoded(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin in (types.UnionType, typing.Union) and types.NoneType in arguments:
        (inner,) = (a for a in arguments if a is not types.NoneType)
        return None if value is None else _decoded(inner, value, where)
    raise TypeError(f"{where}: no reader for {kind!r}")


def _decoded_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    _expect(dict, value, where)
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ReportFormatError(f"{where}: unknown field {unknown[0]!r}")
    absent = object()
    found = {}
    for f in dataclasses.fields(kind):
        has_default = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        part = value.get(f.name, absent)
        if part is not absent:
            found[f.name] = _decoded(hints[f.name], part, f"{where}.{f.name}")
        elif not has_default:
            raise ReportFormatError(f"{where}: field {f.name!r} is missing")
    return kind(**found)


def _decoded_array(value: Any, where: str) -> FloatArray:
    _expect(list, value, where)
    if value and isinstance(value[0], list):
        rows = [_decoded_array(v, f"{where}[{i}]") for i, v in enumerate(value)]
        if len({r.shape for r in rows}) != 1:
            raise ReportFormatError(f"{where}: rows of unequal length")
        return np.stack(rows)
    array = np.array([_decoded_float(v, f"{where}[{i}]") for i, v in enumerate(value)], dtype=np.float64)
    array.flags.writeable = False
    return array


def _decoded_float(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ReportFormatError(f"{where}: expected a number, found {_described(value)}")


def _expect(kind: type, value: Any, where: str) -> None:
    if not isinstance(value, kind):
        raise ReportFormatError(f"{where}: expected {kind.__name__}, found {_described(value)}")


def _described(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
