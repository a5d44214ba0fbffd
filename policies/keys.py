"""Keys: how targets and snapshots are named across a pass, so that nothing is ever found by position.

Targets come and go between two passes. Whatever speaks of one (a spec, a plan, a row of a forecast, a
record) carries its key; two things belong together when their keys are equal and never because they
stand at the same index.

Named tuples, since a pass for a thousand targets looks keys up by the hundred thousand, and a tuple's hash
is four times as fast as a dataclass's.
"""

from __future__ import annotations

from typing import NamedTuple


class TargetKey(NamedTuple):
    """A scaled workload by namespace and name, as Kubernetes names objects. Ordered, for stable output."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class SnapshotKey(NamedTuple):
    """One snapshot of a target: a new pod template means a new digest, and an old one serves no wake."""

    target: TargetKey
    digest: str

    def __str__(self) -> str:
        return f"{self.target}@{self.digest}"
