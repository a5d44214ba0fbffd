"""Demand as regular series, by target key; gaps are explicit (NaN)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.arrays import FloatArray
from policies.keys import TargetKey


@dataclass(frozen=True, slots=True)
class DemandFrame:
    start_s: float
    period_s: float
    demand: Mapping[TargetKey, FloatArray]
