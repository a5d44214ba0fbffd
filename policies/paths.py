"""Joint sample paths of future demand, by target key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.arrays import FloatArray
from policies.keys import TargetKey


@dataclass(frozen=True, slots=True)
class DemandPaths:
    """Joint sample paths of future demand.

    `paths[i, k, h]` is the mean demand of target `keys[i]`, in replicas, on path k within the step that ends
    `step_ends_s[h]` seconds from now. Path k is one joint future of all targets, so sums over i
    carry the targets' correlation.
    """

    keys: tuple[TargetKey, ...]
    step_ends_s: FloatArray
    paths: FloatArray
    known: frozenset[TargetKey]
    """Targets whose forecast has something to stand on."""
    model: str = ""

    def rows(self, keys: tuple[TargetKey, ...]) -> FloatArray:
        """Return the paths of `keys` in that order, (keys, paths, steps); zeros for a key without a forecast."""
        if keys == self.keys:
            return self.paths
        index = {key: i for i, key in enumerate(self.keys)}
        empty = np.zeros(self.paths.shape[1:], self.paths.dtype)
        rows = np.array([self.paths[index[k]] if k in index else empty for k in keys], self.paths.dtype)
        return rows.reshape(len(keys), *empty.shape)
