"""Observations: one start of a replica or one GPU on its way, as it stands when looked at.

The controller makes them from pods and nodes, the simulator from its own replicas; both feed the same
book. The story goes on in `records.py`, which keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from policies.keys import TargetKey


class StartOutcome(StrEnum):
    """State of a start when it was observed."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PENDING = "pending"
    """Neither yet: the lead time is longer than what has elapsed (right-censored)."""


@dataclass(frozen=True, slots=True)
class StartObservation:
    """One attempt to bring a replica to Ready, or one GPU from a supply step.

    `path` is the tier of origin ("staged", "parked", "cold", ...), or with `target` None the supply
    step ("lent", "node", ...). `node_class` is the GPU model. `elapsed_s` runs from the decision to
    Ready, to the failure, or to `at_s` while pending; a fallback after a failure is an attempt of its
    own on its own path. `at_s` is when this was observed, on the one clock of a book that survives
    restarts (Unix seconds, or simulated ones). `replica` names the attempt: a later observation of the
    same name replaces an earlier one, so a replica that wakes again needs a new name (its pod's UID
    and a count). `gpus_per_replica` and `weights_bytes` are the replica's size, 0 for a supply step.
    Raises ValueError, with field, value and hint, for what cannot be.
    """

    target: TargetKey | None
    path: str
    node_class: str
    outcome: StartOutcome
    elapsed_s: float
    replica: str
    at_s: float
    gpus_per_replica: int = 0
    weights_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("path", "node_class", "replica"):
            if not getattr(self, name):
                raise ValueError(f"{name}: '' names nothing; give a name")
        if not (isfinite(self.elapsed_s) and self.elapsed_s >= 0):
            raise ValueError(f"elapsed_s: {self.elapsed_s} is not finite or is negative; give seconds, 0 or more")
        if not isfinite(self.at_s):
            raise ValueError(f"at_s: {self.at_s} is no moment; give finite seconds")
        if (self.gpus_per_replica > 0) != (self.target is not None):
            raise ValueError(
                f"gpus_per_replica: {self.gpus_per_replica} does not go with target {self.target}; "
                "give 1 or more with a target and 0 without"
            )
        if self.weights_bytes < 0:
            raise ValueError(f"weights_bytes: {self.weights_bytes} is negative; give 0 or more")

    @property
    def ended(self) -> bool:
        """Return whether the attempt has succeeded or failed."""
        return self.outcome is not StartOutcome.PENDING
