"""Which snapshots go: a pure decision, over a store or a node's directory of staged artifacts.

Two kinds always stay: what is held (somebody reads it), and the newest of each name, because a service without any
snapshot starts cold. Of the rest goes, each for the first reason that applies:

1. what is not among the `keep_last` newest of its name;
2. what is older than `max_age_s`;
3. while all that stays takes more than `quota_bytes`: the oldest, whatever its name.

A quota may so remain exceeded; the plan says by how much. Two snapshots of one age are told apart by digest and place,
so that the same input gives the same plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A snapshot as retention sees it."""

    place: str
    """Where it lies; names it uniquely."""
    name: str
    digest: str
    created_unix_s: float
    bytes: int
    """What its removal would free."""
    held: bool = False


@dataclass(frozen=True)
class RetentionPolicy:
    """What is to be kept; None is no rule."""

    keep_last: int | None = None
    max_age_s: float | None = None
    quota_bytes: int | None = None


@dataclass(frozen=True)
class Removal:
    """One that goes, and why."""

    snapshot: Kept
    reason: str


@dataclass(frozen=True)
class Retention:
    """The plan."""

    removals: tuple[Removal, ...]
    """The oldest first."""
    stays: tuple[Kept, ...]
    over_quota_bytes: int
    """How much too much stays because nothing more may go."""


def decide(snapshots: Iterable[Kept], policy: RetentionPolicy, now_unix_s: float) -> Retention:
    """What goes and what stays."""
    oldest_first = sorted(snapshots, key=lambda each: (each.created_unix_s, each.digest, each.place))
    names: dict[str, list[Kept]] = {}
    for each in reversed(oldest_first):
        names.setdefault(each.name, []).append(each)
    rank = {each.place: number for of_name in names.values() for number, each in enumerate(of_name)}
    may_go = [each for each in oldest_first if rank[each.place] > 0 and not each.held]
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
