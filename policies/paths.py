"""Sample paths of future demand, addressed by target key.

What a forecaster answers and what a policy plans with. A row belongs to a target because `keys` says so,
never because of where some other tuple lists that target: `rows` takes rows in the order that a caller needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.arrays import FloatArray
from policies.keys import TargetKey


@dataclass(frozen=True, slots=True, eq=False)
class DemandPaths:
    """Joint sample paths of future demand.

    `paths[i, k, h]` is the mean demand of `keys[i]`, in replicas, on path k within the step that ends
    `step_ends_s[h]` seconds from now: shape (targets, paths, steps), single or double precision (1,000
    targets x 1,000 paths x 17 steps are 68 MB in single). Path k is one joint future of all targets, so
    sums over i carry their correlation. Raises ValueError if shapes disagree or a key occurs twice.
    """

    keys: tuple[TargetKey, ...]
    step_ends_s: FloatArray
    """(steps,), ascending."""
    paths: FloatArray
    known: frozenset[TargetKey]
    """Targets whose forecast has something to stand on; for others the paths mean nothing."""
    model: str = ""

    def __post_init__(self) -> None:
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("a target occurs twice among the keys of sample paths")
        shape = self.paths.shape
        if len(shape) != 3 or (shape[0], shape[2]) != (len(self.keys), len(self.step_ends_s)):
            raise ValueError(
                f"paths of shape {shape} for {len(self.keys)} targets and {len(self.step_ends_s)} steps; "
                "expected (targets, paths, steps)"
            )

    def rows(self, keys: tuple[TargetKey, ...]) -> DemandPaths:
        """Return the paths of `keys` in that order; raise KeyError naming the first key without a row."""
        if keys == self.keys:
            return self
        row = {key: i for i, key in enumerate(self.keys)}
        chosen = np.array([row[key] for key in keys], dtype=np.intp)
        return DemandPaths(keys, self.step_ends_s, self.paths[chosen], self.known & frozenset(keys), self.model)
