"""Format pydantic validation errors as one-line `DriverError` messages."""

from __future__ import annotations

from pydantic import ValidationError

from restore_driver.errors import DriverError, Reason


def where_and_why(error: ValidationError, whole: str) -> tuple[str, str]:
    """Return the field (or `whole` where no single field is at fault) and the rule of the first error."""
    first = error.errors(include_url=False)[0]
    return ".".join(str(part) for part in first["loc"]) or whole, first["msg"]


def shown_value(error: ValidationError, longest: int = 80) -> str:
    """Return the `repr` of the first refused value, cut to `longest` characters."""
    value = repr(error.errors(include_url=False)[0]["input"])
    return value if len(value) <= longest else value[: longest - 3] + "..."


def refused_request(error: ValidationError) -> DriverError:
    """Return REQUEST_INVALID with field, rule and value of the first error, and the rule's hint where it has one."""
    where, why = where_and_why(error, "do")
    hint = error.errors(include_url=False)[0].get("ctx", {}).get("hint", "")
    return DriverError(Reason.REQUEST_INVALID, f"{where}: {why}, got {shown_value(error)}", hint)
