"""Required capacity: how many replicas a sample path of demand needs, given that requests may wait.

A request may wait up to the SLO `S`, so the capacity that a path needs is not its peak demand. With
constant capacity C and first-come-first-served, nothing that arrives up to u waits longer than S
exactly if, for every earlier moment s,

    C >= (work that arrived in (s, u]) / (u - s + S)

(the delay bound of network calculus: Le Boudec and Thiran, "Network Calculus", Springer 2001,
section 1.4; work already queued counts as having arrived at s = 0). With S = 0 this is the running
maximum of demand; the longer requests may wait compared with a burst, the less standing capacity a
burst needs, which is how a wake that fits into the SLO replaces replicas by spare GPUs.

Taken literally over a short horizon that bound is a trap: work put off must be done later, so a plan
that spends the whole allowance at every decision lives with every request waiting for S. Waiting is
for bursts, not for sustained load. The allowance therefore shrinks with the window, from S for an
instant to nothing for windows of `SUSTAINED_SLOS` x S and more, where C must carry what arrives.

`required_by_step` computes it for all paths and moments at once, `required_until` its running maximum;
`tiers.py`, `hold.py` and `spares.py` take quantiles of them.

Both keep paths contiguous in memory (targets, steps, paths) behind the view (targets, paths, steps), and
go through the targets in blocks that fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray

F = TypeVar("F", bound=np.floating[Any])

SUSTAINED_SLOS = 4.0
"""Windows of this many SLOs and more count as sustained load, which waiting cannot absorb. Shrinking the
allowance by w / 4 leaves S + 3 w / 4 to a window w: a burst as long as the SLO still gets 1.75 S to be served
in, and a plan that works at its limit has caught up four SLOs later at the latest."""

BLOCK_SAMPLES = 16_384
"""(target, path) pairs worked on at once: 64 KiB a step in float32, so that a block stays in a core's L2."""


def required_by_step(
    step_ends_s: FloatArray, paths: NDArray[F], backlog_replica_s: FloatArray, slo_wait_s: FloatArray
) -> NDArray[F]:
    """Return the capacity, in replicas, with which what arrives up to each step's end does not wait past the SLO.

    `step_ends_s` is (steps,) ascending and positive, `paths` (targets, paths, steps) mean demand in each step
    and not negative, `backlog_replica_s` and `slo_wait_s` (targets,). Returns (targets, paths, steps) in the
    dtype of `paths`: the greatest of the windows that end with the step.

    A window without allowance that a step's end divides into two without allowance is left out: its mean
    is no more than the greater of its parts' means, so the running maximum is the same. What a single
    moment requires may be less than with it, namely where the earlier part was the heavier one: that load
    was required at its own end, and is not required once more of a later moment. It is never less than
    what the windows with an allowance, or the shortest without one, require.
    """
    ends, slos = tuple(step_ends_s.tolist()), tuple(slo_wait_s.tolist())
    edges = np.concatenate(([0.0], step_ends_s))
    allowance_gone_s = SUSTAINED_SLOS * slo_wait_s
    split_s = _best_split_s(ends)
    rates = _rates(ends, slos, paths.dtype.str).astype(paths.dtype, copy=False)
    n_targets, n_paths, n_steps = paths.shape
    required = np.empty((n_targets, n_steps, n_paths), paths.dtype)
    widths = np.diff(edges).astype(paths.dtype)[:, None, None]
    for block in blocks(n_targets, n_paths):
        # Steps lead within a block, so that each operation below runs over contiguous memory.
        work = np.empty((n_steps, *required[block, 0].shape), paths.dtype)
        np.multiply(paths[block].transpose(2, 0, 1), widths, out=work)
        backlog = backlog_replica_s[block, None].astype(paths.dtype)
        kept = split_s < allowance_gone_s[block].max()
        greatest = _greatest_windows(work, backlog, rates[:, :, block], kept)
        required[block] = greatest.transpose(1, 0, 2)
    return required.transpose(0, 2, 1)


def required_until(by_step: NDArray[F]) -> NDArray[F]:
    """Return the least constant capacity such that no arrival in (0, step end] waits past the SLO.

    The running maximum over the steps of `required_by_step`, whose shape, unit and dtype it keeps.
    """
    steps = by_step.transpose(0, 2, 1)
    running = np.empty(steps.shape, by_step.dtype)
    for block in blocks(steps.shape[0], steps.shape[2]):
        running[block, 0] = steps[block, 0]
        for s in range(1, steps.shape[1]):
            np.maximum(running[block, s - 1], steps[block, s], out=running[block, s])
    return running.transpose(0, 2, 1)


def lead_steps(step_ends_s: FloatArray, lead_s: FloatArray) -> NDArray[np.intp]:
    """Return the index of the step whose end covers each lead time; a lead past the horizon gets the last step."""
    return np.minimum(np.searchsorted(step_ends_s, lead_s), len(step_ends_s) - 1)


def at_steps(required: NDArray[F], rows: NDArray[np.intp], steps: NDArray[np.integer[Any]]) -> NDArray[F]:
    """Return `required[rows[i], k, steps[i, k]]` for every path k: (targets, paths, steps) to (rows, paths)."""
    taken: NDArray[F] = required[rows[:, None], np.arange(required.shape[1]), steps]
    return taken


def blocks(n_targets: int, n_paths: int) -> Iterator[slice]:
    """Yield slices of the targets, each with about `BLOCK_SAMPLES` paths and with one target at least."""
    size = max(BLOCK_SAMPLES // max(n_paths, 1), 1)
    return (slice(low, min(low + size, n_targets)) for low in range(0, n_targets, size))


@lru_cache(maxsize=64)
def _best_split_s(step_ends_s: tuple[float, ...]) -> FloatArray:
    """Return, for each window (s, u], the longest that its shorter part can be when an edge within divides it.

    (edges, edges) seconds; minus infinity for a window of one step, which nothing divides.
    """
    edges = np.array((0.0, *step_ends_s))
    spans = edges[None, :] - edges[:, None]
    shorter = np.minimum(spans[:, :, None], spans[None, :, :])
    inside = (spans[:, :, None] > 0) & (spans[None, :, :] > 0)
    split: FloatArray = np.where(inside, shorter, -np.inf).max(axis=1)
    split.flags.writeable = False  # cached, so shared
    return split


@lru_cache(maxsize=64)
def _rates(step_ends_s: tuple[float, ...], slo_wait_s: tuple[float, ...], dtype: str) -> NDArray[Any]:
    """Return capacity per work of each window, (s, u, targets): 0 where the parts of the window bound it."""
    edges, slos = np.array((0.0, *step_ends_s)), np.array(slo_wait_s)
    window_s = np.maximum(edges[None, :] - edges[:, None], 0.0)[:, :, None]
    allowed_s = window_s + np.maximum(slos - window_s / SUSTAINED_SLOS, 0.0)
    counts = (window_s > 0) & (_best_split_s(step_ends_s)[:, :, None] < SUSTAINED_SLOS * slos)
    rates: NDArray[Any] = np.divide(1.0, allowed_s, out=np.zeros_like(allowed_s), where=counts).astype(dtype)
    rates.flags.writeable = False  # cached, so shared
    return rates


def _greatest_windows(work: NDArray[F], backlog: NDArray[F], rates: NDArray[F], kept: NDArray[np.bool_]) -> NDArray[F]:
    """Return the greatest rate of all windows that end with each step; `work` and it are (steps, targets, paths).

    Each window adds one step to the next shorter one that ends with it (sums, so that nothing cancels out in
    float32). If its parts bound a window, they bound every longer one that ends with it, too.
    """
    greatest = np.zeros_like(work)
    total = np.empty_like(work[0])
    scaled = np.empty_like(total)
    for u in range(len(work)):
        total.fill(0.0)
        for s in range(u, -1, -1):
            if not kept[s, u + 1]:
                break
            total += work[s]
            if s == 0:
                total += backlog
            np.multiply(total, rates[s, u + 1][:, None], out=scaled)
            np.maximum(greatest[u], scaled, out=greatest[u])
    return greatest
