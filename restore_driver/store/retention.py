"""Decide which snapshots to remove: a pure function over a store or a node's directory of staged artifacts.

Two kinds always stay: locked snapshots, and the newest of each name, because a service without any snapshot starts
cold. The rest is removed for the first reason that applies:

1. it is not among the `keep_last` newest of its name;
2. it is older than `max_age_s`;
3. all that stays takes more than `quota_bytes`, and it is the oldest, whatever its name.

So a quota may remain exceeded; the plan has the excess. Snapshots of equal age are ordered by digest and place, so that
the same input gives the same plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A snapshot as input of the decision."""

    place: str
    """Its path or its place in the store; unique."""
    name: str
    digest: str
    created_unix_s: float
    bytes: int
    """Bytes that its removal would free."""
    locked: bool = False


@dataclass(frozen=True)
class RetentionPolicy:
    """Retention rules; None means that the rule does not apply."""

    keep_last: int | None = None
    max_age_s: float | None = None
    quota_bytes: int | None = None


@dataclass(frozen=True)
class Removal:
    """A snapshot to remove, and the reason."""

    snapshot: Kept
    reason: str


@dataclass(frozen=True)
class Retention:
    """The plan."""

    removals: tuple[Removal, ...]
    """The oldest first."""
    stays: tuple[Kept, ...]
    over_quota_bytes: int
    """Excess over the quota that may not be removed."""


def decide(snapshots: Iterable[Kept], policy: RetentionPolicy, now_unix_s: float) -> Retention:
    """Return the plan for the given snapshots at time `now_unix_s`."""
    oldest_first = sorted(snapshots, key=lambda each: (each.created_unix_s, each.digest, each.place))
    names: dict[str, list[Kept]] = {}
    for each in reversed(oldest_first):
        names.setdefault(each.name, []).append(each)
    rank = {each.place: number for of_name in names.values() for number, each in enumerate(of_name)}
    may_go = [each for each in oldest_first if rank[each.place] > 0 and not each.locked]
    reasons: dict[str, str] = {}
    for each in may_go:
        age_s = now_unix_s - each.created_unix_s
        if policy.keep_last is not None and rank[each.place] >= policy.keep_last:
            reasons[each.place] = f"not among the {policy.keep_last} newest of {each.name}"
        elif policy.max_age_s is not None and age_s > policy.max_age_s:
            reasons[each.place] = f"{age_s / 86400:.1f} days old, {policy.max_age_s / 86400:.1f} are allowed"
    left_bytes = sum(each.bytes for each in oldest_first if each.place not in reasons)
    if policy.quota_bytes is not None:
        for each in may_go:
            if left_bytes <= policy.quota_bytes:
                break
            if each.place not in reasons:
                reasons[each.place] = f"the oldest while {left_bytes - policy.quota_bytes:,} bytes over the quota"
                left_bytes -= each.bytes
    return Retention(
        removals=tuple(Removal(each, reasons[each.place]) for each in oldest_first if each.place in reasons),
        stays=tuple(each for each in oldest_first if each.place not in reasons),
        over_quota_bytes=0 if policy.quota_bytes is None else max(0, left_bytes - policy.quota_bytes),
    )
