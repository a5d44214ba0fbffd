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

`required_by_step` computes it for all paths and moments at once, `required_capacity` over all moments up
to a horizon; `tiers.py` and `spares.py` take quantiles of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray

SUSTAINED_SLOS = 4.0
"""Windows of this many SLOs and more count as sustained load, which waiting cannot absorb."""


def required_by_step(
    step_ends_s: FloatArray, paths: NDArray[np.floating], backlog_replica_s: FloatArray, slo_wait_s: FloatArray
) -> FloatArray:
    """Capacity, in replicas, with which what arrives up to each step's end does not wait past the SLO.

    `step_ends_s` is (steps,) ascending and positive, `paths` (targets, paths, steps) mean demand in
    each step, `backlog_replica_s` and `slo_wait_s` (targets,). Returns (targets, paths, steps): the
    windows that end with the step.
    """
    n_targets, n_paths, n_steps = paths.shape
    edges = np.concatenate(([0.0], step_ends_s))
    slo = slo_wait_s[:, None]

    def per_allowed_s(window_s: float) -> FloatArray:
        rate: FloatArray = 1.0 / (np.maximum(slo - window_s / SUSTAINED_SLOS, 0.0) + window_s)
        return rate

    # Steps lead: each of the few dozen (s, u] windows is then one pass over contiguous memory.
    work = np.empty((n_steps + 1, n_targets, n_paths))
    work[0] = 0.0
    np.cumsum(np.moveaxis(paths, 2, 0) * np.diff(edges)[:, None, None], axis=0, out=work[1:])
    backlog = backlog_replica_s[:, None]
    required = np.empty((n_steps, n_targets, n_paths))
    window = np.empty((n_targets, n_paths))
    for u in range(1, n_steps + 1):
        best = required[u - 1]
        np.add(work[u], backlog, out=best)
        best *= per_allowed_s(edges[u])
        for s in range(1, u):
            np.subtract(work[u], work[s], out=window)
            window *= per_allowed_s(edges[u] - edges[s])
            np.maximum(best, window, out=best)
    return np.moveaxis(required, 0, 2)


def required_capacity(
    step_ends_s: FloatArray, paths: NDArray[np.floating], backlog_replica_s: FloatArray, slo_wait_s: FloatArray
) -> FloatArray:
    """Least constant capacity, in replicas, such that no arrival in (0, step end] waits past the SLO.

    Arguments and shape as for `required_by_step`, of which this is the running maximum.
    """
    by_step = required_by_step(step_ends_s, paths, backlog_replica_s, slo_wait_s)
    running: FloatArray = np.maximum.accumulate(by_step, axis=-1)
    return running


def at_lead_times(required: FloatArray, step_ends_s: FloatArray, lead_s: FloatArray) -> FloatArray:
    """The requirement over (0, lead] on each path: (..., paths, steps) and (paths,) to (..., paths).

    A lead between two step ends is covered by the later one; one past the horizon by the last.
    """
    step = np.minimum(np.searchsorted(step_ends_s, lead_s), len(step_ends_s) - 1)
    return np.take_along_axis(required, np.broadcast_to(step[:, None], (*required.shape[:-1], 1)), axis=-1)[..., 0]
