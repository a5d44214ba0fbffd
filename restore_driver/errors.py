"""The driver's one exception: a reason code, what it concerns, and what would fix it.

`Reason` is part of the wire contract (`wire/reasons.py`) and exported here as well, since each raise needs both.
"""

from __future__ import annotations

from restore_driver.wire.reasons import Reason

__all__ = ["DriverError", "Reason"]


class DriverError(Exception):
    """A refusal or a failure with its reason code, what it concerns, and what would fix it."""

    def __init__(self, reason: Reason, detail: str, hint: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" + (f"; {hint}" if hint else ""))
        self.reason = reason
        self.detail = detail
        self.hint = hint

    def __reduce__(self) -> tuple[type[DriverError], tuple[Reason, str, str]]:
        return (type(self), (self.reason, self.detail, self.hint))
