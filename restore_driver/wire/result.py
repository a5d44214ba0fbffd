"""What an attempt returns: its outcome, its reason, and the time of each phase."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from restore_driver.wire.reasons import Reason
from restore_driver.wire.version import API_VERSION, ApiVersion


class PhaseTime(BaseModel):
    """One phase as it went; `began_s` counts from the beginning of the attempt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: str
    """A `Phase`, or `undo` for the time that rolling back took."""
    began_s: float
    took_s: float
    details: dict[str, Any] = {}


class Result(BaseModel):
    """How an attempt ended; the JSON that every command prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_version: ApiVersion = API_VERSION
    sequence: str
    outcome: str
    """What the sequence ends in (`proven`, `published`, `parked`, ...), `refused` or `failed`."""
    reason: Reason | None = None
    """None exactly when the attempt succeeded."""
    detail: str | None = None
    hint: str | None = None
    phase: str | None = None
    """The phase that was refused or failed."""
    fallback: str | None = None
    """What to do instead: `cold-start`, or None."""
    total_s: float
    unaccounted_s: float
    """Time between the phases; more than 5% of the total would be a fault of the driver."""
    phases: tuple[PhaseTime, ...]
    undone: tuple[str, ...] = ()
    undo_errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Side effects that failed, such as a setting that could not be put back; the outcome holds regardless."""
    answer: dict[str, Any] = {}
    """Values for the client: the replica's PID, the artifact's path and digest, bytes."""

    @property
    def ok(self) -> bool:
        """True when the sequence reached its end."""
        return self.reason is None
