"""What pydantic found wrong, as one sentence."""

from __future__ import annotations

from pydantic import ValidationError

from restore_driver.errors import DriverError, Reason


def where_and_why(error: ValidationError, whole: str) -> tuple[str, str]:
    """Field, or `whole` where none is at fault, and rule of the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    return ".".join(str(part) for part in first["loc"]) or whole, first["msg"]


def shown_value(error: ValidationError, longest: int = 80) -> str:
    """The value that is wrong."""
    value = repr(error.errors(include_url=False)[0]["input"])
    return value if len(value) <= longest else value[: longest - 3] + "..."


def refused_request(error: ValidationError) -> DriverError:
    """REQUEST_INVALID with field, rule and value."""
    where, why = where_and_why(error, "do")
    return DriverError(Reason.REQUEST_INVALID, f"{where}: {why}, got {shown_value(error)}")
