"""Print how an attempt ended, as text or as JSON, and choose the exit code; with the standard library alone.

0 the sequence reached its end, 1 it failed and was undone, 2 it was refused and nothing was touched. The JSON is always
a whole `wire.result.Result`, also where a command is refused before an attempt begins.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from restore_driver.errors import DriverError
from restore_driver.wire.api_version import API_VERSION

FAILED, REFUSED = 1, 2
_BOLD, _RED, _YELLOW = "1", "31", "33"


def print_outcome(result: Mapping[str, Any], *, as_json: bool) -> int:
    """Print a result (`Result` as JSON members) unchanged and return the exit code."""
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        for line in result_lines(result, colour=_takes_colour()):
            print(line)
    if result["reason"] is None:
        return 0
    return REFUSED if result["outcome"] == "refused" else FAILED


def print_error(command: str, outcome: str, error: DriverError, *, as_json: bool, total_s: float = 0.0) -> None:
    """Print an error that came instead of a result: a line on standard error, and with `as_json` a result as well."""
    if as_json:
        print(json.dumps(error_result(command, outcome, error, total_s), indent=2, ensure_ascii=False))
    print(error, file=sys.stderr)


def error_result(command: str, outcome: str, error: DriverError, total_s: float = 0.0) -> dict[str, Any]:
    """Return the members of a `Result` without phases: no attempt was begun, or the command is none.

    `outcome` is `refused` or `failed`; `total_s` is 0 where nothing was begun. Written by hand, since pydantic takes
    longer to import than a refusal takes.
    """
    return {
        "api_version": API_VERSION,
        "sequence": command,
        "outcome": outcome,
        "reason": error.reason.value,
        "detail": error.detail,
        "hint": error.hint or None,
        "phase": None,
        "fallback": None,
        "total_s": total_s,
        "unaccounted_s": total_s,
        "phases": [],
        "undone": [],
        "undo_errors": [],
        "warnings": [],
        "answer": {},
    }


def result_lines(result: Mapping[str, Any], *, colour: bool) -> Iterator[str]:
    """Return the lines of a result: the phases with their times, then outcome, answer, warnings and reason."""

    def paint(text: object, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else str(text)

    yield from (paint(line, _BOLD) if not number else line for number, line in enumerate(_table(result["phases"])))
    yield (
        f"{paint(result['outcome'], _BOLD)} in {result['total_s']:.3f} s, {result['unaccounted_s'] * 1e3:.1f} ms of it "
        "between the phases"
    )
    yield from (f"{name}: {value}" for name, value in result["answer"].items())
    yield from (f"{paint('warning', _YELLOW)}: {sentence}" for sentence in result["warnings"])
    if result["reason"] is not None:
        hint = f"; {result['hint']}" if result["hint"] else ""
        yield f"{paint(result['reason'], _RED)} in {result['phase']}: {result['detail']}{hint}"
        yield from (f"undo failed: {sentence}" for sentence in result["undo_errors"])
        if result["fallback"]:
            yield f"instead: {result['fallback']}"


def _table(phases: list[Mapping[str, Any]]) -> Iterator[str]:
    rows = [("phase", "ms", "details")]
    rows += [(p["phase"], f"{p['took_s'] * 1e3:.1f}", ", ".join(_details(p["details"]))) for p in phases]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    for phase, took_ms, details in rows:
        yield f"{phase:{first}}  {took_ms:>{second}}  {details}".rstrip()


def _details(details: Mapping[str, Any]) -> Iterator[str]:
    """Select what fits into a line of the table; the JSON has all of it."""
    for name, value in details.items():
        if name == "checks":  # of the proof; in a result all of them have passed
            yield from (check["what"] for check in value)
        elif isinstance(value, bool):
            yield name.replace("_", " ") if value else f"no {name.replace('_', ' ')}"
        elif isinstance(value, float) and name.endswith("_s"):
            yield f"{name.removesuffix('_s')} {value * 1e3:.1f} ms"
        elif isinstance(value, int) and name.endswith("bytes"):
            yield f"{name} {value:,}"
        elif value is not None and not isinstance(value, dict):
            yield f"{name} {value}"


def _takes_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
