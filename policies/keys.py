"""Keys: how targets and snapshots are named across a pass, so that nothing is ever found by position.

Targets come and go between two passes. Whatever speaks of one (a spec, a plan, a row of a forecast, a
record) carries its key; two things belong together when their keys are equal and never because they
stand at the same index.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class TargetKey:
    """A scaled workload by namespace and name, as Kubernetes names objects. Ordered, for stable output."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class SnapshotKey:
    """One snapshot of a target: a new pod template means a new digest, and an old one serves no wake."""

    target: TargetKey
    digest: str

    def __str__(self) -> str:
        return f"{self.target}@{self.digest}"
