"""Which snapshots lie on which nodes: each target's artifacts near the GPUs it may have to wake on.

A staged artifact serves any number of wakes on its node, so what matters is that enough of the GPUs that
could become spare lie on nodes with the artifact: `COVER_TIMES` the GPUs that the target may wake on. A
copy is worth the part of that cover that it adds, and nothing once the others complete it.

**Placement is sticky.** What lies on a node, or is on its way there, has been paid for; what must be fetched
has not, and what it pushes out may have to be fetched again. So a cache is filled in the order of worth
per byte, with the price of a fetch added for what is there and taken off what is not, and a newcomer
counts at `DOUBT` of its worth: a snapshot gives way only to one that is worth clearly more, by more than
both fetches. What was placed before and is not yet being fetched stands between the two. `settled`
averages the needs over time, so that one noisy forecast moves nothing.

The order of a placement: first the room that is free goes to what still lacks cover; then each node is
looked at as a whole, where what is worth more may push something out, and what is left of the cache
takes further copies for as long as they fit, so that in a fleet whose caches hold everything, everything is
everywhere. Nodes with more idle GPUs come first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from policies.keys import SnapshotKey, TargetKey
from policies.newsvendor import Samples, shortage_cost_per_s, upper_quantiles
from policies.types import NodeObservation, TargetSpec

COVER_TIMES = 2.0
"""GPUs near an artifact per GPU that the target may need: others compete for the same spares."""
WAKE_QUANTILE = 0.99
"""How sure to be that a wake finds its artifact. A node without it costs a fetch of tens of seconds instead of
a wake of one, so nearly every path counts; the last hundredth is left out, since there the number of copies
would hang on single paths."""
STANDS_S = 300.0
"""How long a placement is taken to be of use, and over how long needs are averaged: some minutes, several times
what a fetch takes."""
FETCH_BYTES_PER_S = 1e9
"""Rate at which a node fetches from shared storage. A fetch is priced at one GPU for as long as it lasts, since
the wakes on its node share the network and the disk with it."""
DOUBT = 0.5
"""Part of its worth at which a newcomer counts: what not waking costs is known to a factor of two at best."""

Rows = NDArray[np.intp]

_NEW, _PLACED_BEFORE, _THERE = 0, 1, 2
_FETCH_PRICE = np.array([-1.0, 0.0, 1.0]) / FETCH_BYTES_PER_S
"""GPU-seconds per byte that a fetch costs or saves, by what has become of it."""


@dataclass(frozen=True, slots=True)
class WakeNeed:
    """GPUs that a target may have to wake on, and what not waking there costs."""

    target: TargetSpec
    gpus: float
    worth: float
    """Expected cost of not waking, GPU-seconds per second."""


Settled = Mapping[TargetKey, tuple[float, float]]
"""What is kept of needs from one placement to the next: GPUs and worth of each, by target."""


def wake_needs(targets: tuple[TargetSpec, ...], required: Samples, active: FloatArray) -> tuple[WakeNeed, ...]:
    """Return the need of each target with a snapshot: at least one replica's GPUs, whatever the forecast.

    `required` is (targets, paths), the replicas required up to the horizon, `active` (targets,) the replicas
    planned, both in the order of `targets`. Worth is counted with one path more, on which one replica is
    missing (Laplace's rule of succession): what no path shows may still come.
    """
    above = np.maximum(required - active[:, None].astype(required.dtype), 0.0)
    most = upper_quantiles(above, np.full(len(targets), WAKE_QUANTILE))
    mean = (above.sum(axis=1) + 1.0) / (above.shape[1] + 1)
    return tuple(
        WakeNeed(t, max(float(m), 1.0) * t.gpus_per_replica, float(a) * shortage_cost_per_s(t))
        for t, m, a in zip(targets, most, mean, strict=True)
        if t.snapshot is not None
    )


def settled(needs: tuple[WakeNeed, ...], before: Settled, elapsed_s: float) -> tuple[WakeNeed, ...]:
    """Return `needs` averaged exponentially over `STANDS_S` with what they were `elapsed_s` ago.

    By target key: a target that is new has its need as it is, one that is gone leaves nothing behind.
    """
    gain = -math.expm1(-elapsed_s / STANDS_S)

    def average(now: WakeNeed) -> WakeNeed:
        gpus, worth = before.get(now.target.key, (now.gpus, now.worth))
        return replace(now, gpus=gpus + gain * (now.gpus - gpus), worth=worth + gain * (now.worth - worth))

    return tuple(average(w) for w in needs)


def place_snapshots(
    needs: tuple[WakeNeed, ...],
    nodes: tuple[NodeObservation, ...],
    cache_bytes: Mapping[str, int],
    previous: Mapping[str, tuple[SnapshotKey, ...]],
) -> dict[str, tuple[SnapshotKey, ...]]:
    """Return the snapshots that should lie on each node that is there, most wanted first.

    `cache_bytes` is what a node has for these snapshots, those that lie there already included (a node that is
    left out has nothing); it is never exceeded. `previous` is the placement before. A snapshot is placed only
    on nodes with the GPUs of one replica; needs without a snapshot are left out. Ties fall to the lesser key.
    """
    there = sorted((n for n in nodes if not n.absent), key=lambda n: (-n.idle_gpus, n.name))
    asking = sorted(
        (w for w in needs if w.target.snapshot is not None),
        key=lambda w: (-w.worth / max(w.target.artifact_bytes, 1), w.target.key),
    )
    whole = sum(w.target.artifact_bytes for w in asking)
    if all(cache_bytes.get(n.name, 0) >= whole for n in there):
        return {n.name: _runnable(n, asking) for n in there}  # nothing is scarce, so there is nothing to choose
    caches = _Caches(asking, there, cache_bytes, previous)
    for n in range(len(there)):
        caches.fill_lacking(n)
    for n in range(len(there)):
        caches.refill(n)
    return {node.name: caches.placed(n) for n, node in enumerate(there)}


def _runnable(node: NodeObservation, asking: list[WakeNeed]) -> tuple[SnapshotKey, ...]:
    """Return the snapshots of the targets whose replicas fit on `node`, in the order of `asking`."""
    fitting = (w.target for w in asking if w.target.gpus_per_replica <= node.gpus)
    return tuple(t.snapshot for t in fitting if t.snapshot is not None)


class _Caches:
    """The caches while they are being filled. `needs` come by worth per byte, greatest first; rows are theirs."""

    def __init__(
        self,
        needs: list[WakeNeed],
        nodes: list[NodeObservation],
        cache_bytes: Mapping[str, int],
        previous: Mapping[str, tuple[SnapshotKey, ...]],
    ) -> None:
        self._keys = [w.target.snapshot for w in needs if w.target.snapshot is not None]
        self._bytes = np.array([w.target.artifact_bytes for w in needs], np.int64)
        self._cache_bytes = [cache_bytes.get(n.name, 0) for n in nodes]
        self._cover_gpus = COVER_TIMES * np.array([w.gpus for w in needs], np.float64)
        self._worth_per_byte = np.array([w.worth for w in needs], np.float64) * STANDS_S / np.maximum(self._bytes, 1)
        shape = np.array([w.target.gpus_per_replica for w in needs], np.int64)
        # (nodes, targets): GPUs of the node that replicas of the target could use, 0 where none fits.
        self._near_gpus = np.array([n.gpus for n in nodes], np.int64)[:, None] // shape * shape
        self._paid = _paid(self._keys, nodes, previous)
        self._lacking_gpus = self._cover_gpus.copy()
        self._chosen: list[Rows] = [np.empty(0, np.intp) for _ in nodes]
        for n in range(len(nodes)):
            self._choose(n, np.flatnonzero((self._paid[n] != _NEW) & (self._near_gpus[n] > 0)))

    def fill_lacking(self, n: int) -> None:
        """Give what is free of node `n` to snapshots that lack cover, beside those that are there."""
        lacking = (self._lacking_gpus > 0) & (self._near_gpus[n] > 0)
        lacking[self._chosen[n]] = False
        room = self._cache_bytes[n] - int(self._bytes[self._chosen[n]].sum())
        more = self._best(n, np.flatnonzero(lacking), room)
        self._choose(n, np.sort(np.concatenate((self._chosen[n], more))))

    def refill(self, n: int) -> None:
        """Fill the whole cache of node `n` anew, given what lies on the others."""
        self._choose(n, np.flatnonzero(self._near_gpus[n] > 0))

    def placed(self, n: int) -> tuple[SnapshotKey, ...]:
        """Return what lies on node `n` in the end, most wanted first."""
        return tuple(self._keys[row] for row in self._chosen[n])

    def _choose(self, n: int, rows: Rows) -> None:
        """Replace what lies on node `n` by the best of `rows` that fit into its cache."""
        self._lacking_gpus[self._chosen[n]] += self._near_gpus[n, self._chosen[n]]
        self._chosen[n] = self._best(n, rows, self._cache_bytes[n])
        self._lacking_gpus[self._chosen[n]] -= self._near_gpus[n, self._chosen[n]]

    def _best(self, n: int, rows: Rows, room_bytes: int) -> Rows:
        """Return those of `rows`, ascending and not on node `n` now, that fit, by what a byte of theirs is worth.

        Copies that add no cover and must be fetched come last. They are most of the rows and in the order of
        their worth already, so only the others are sorted.
        """
        rows = rows[self._bytes[rows] <= room_bytes]
        adds = np.minimum(self._lacking_gpus[rows], self._near_gpus[n, rows])
        paid = self._paid[n, rows]
        matters = (adds > 0) | (paid != _NEW)
        some, adds, paid = rows[matters], np.maximum(adds[matters], 0.0), paid[matters]
        worth = self._worth_per_byte[some] * adds / self._cover_gpus[some]
        score = worth * np.where(paid == _NEW, DOUBT, 1.0) + _FETCH_PRICE[paid]
        rows = np.concatenate((some[np.argsort(-score, kind="stable")], rows[~matters]))
        return rows[_fitting(self._bytes[rows], room_bytes)]


def _paid(
    keys: list[SnapshotKey], nodes: list[NodeObservation], previous: Mapping[str, tuple[SnapshotKey, ...]]
) -> NDArray[np.int8]:
    """Return what has become of each snapshot on each node, (nodes, snapshots)."""
    row = {key: i for i, key in enumerate(keys)}
    paid = np.full((len(nodes), len(keys)), _NEW, np.int8)
    for n, node in enumerate(nodes):
        for lying, state in ((previous.get(node.name, ()), _PLACED_BEFORE), (node.fetching | node.snapshots, _THERE)):
            paid[n, [row[key] for key in lying if key in row]] = state
    return paid


def _fitting(sizes: NDArray[np.int64], room_bytes: int) -> Rows:
    """Return the indices of what fits one after the other; what is too large for the rest is passed over."""
    taken: list[Rows] = []
    waiting = np.arange(len(sizes))
    while len(waiting):
        filled = np.cumsum(sizes[waiting])
        fit = int(np.searchsorted(filled, room_bytes, side="right"))
        taken.append(waiting[:fit])
        room_bytes -= int(filled[fit - 1]) if fit else 0
        waiting = waiting[fit + 1 :]
        waiting = waiting[sizes[waiting] <= room_bytes]
    return np.concatenate(taken) if taken else waiting
