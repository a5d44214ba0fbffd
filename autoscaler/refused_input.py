"""Turn pydantic's validation errors into the one sentence of an InputError; for options and for files alike."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from autoscaler.input_error import InputError


def refused_input(
    error: ValidationError,
    file: str,
    hint: str | None = None,
    *,
    name_of: Callable[[str], str] = str,
    line_of: Callable[[str], int | None] = lambda _: None,
) -> InputError:
    """Describe the first fault by file, line, field, value, rule and hint.

    Args:
        error: what pydantic raised.
        file: where the input is from, as the user knows it.
        hint: what to do about it; None where the rules are worded as hints themselves ("give 1 or more").
        name_of: how the user wrote a field, such as `--slo-wait` for `slo_wait_s`.
        line_of: the line of a field, counted from 1; None where input has no lines.
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    rule = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return InputError(file, line_of(field), name_of(field), None, rule, "add the entry")
    problem, advice = ("this value cannot be used", rule) if hint is None else (rule, hint)
    return InputError(file, line_of(field), name_of(field), first["input"], problem, advice)
