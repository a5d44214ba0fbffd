"""From tokens to replicas: what demand means.

A replica's work on a request is linear in its tokens: prefill takes time per prompt token, decode a
share of the batch's iteration per output token. `WorkRate` holds those three coefficients for a
replica at its *rated* batch, in replica-seconds; demand is then work that arrives per second, in
replicas, and 1.0 is exactly what one replica sustains. Demand is always computed from *offered*
requests: completions understate load just when it matters. What a metric does not say of a request is
priced at the running mean (`RunningMean`), never at zero. The forecast takes over from here.

Everything here is for many targets at once: arrays are (targets,) or (targets, samples), in the caller's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.arrays import FloatArray

SATURATED_WAIT_S = 0.1
"""A queue of this many seconds on both sides of a sample is one that stands."""
LEAST_RATING_SHARE = 0.25
"""Below a quarter of its rating a replica is broken rather than busy: no plan should chase it."""
MEMORY_REQUESTS = 5000.0
"""Requests after which a mean length forgets: minutes under load, so that a new mix of requests shows soon."""
LEARN_S, FORGET_S = 20.0, 900.0
"""Time constants of a rating: saturation is learnt within seconds, and forgotten over a quarter of an hour."""


@dataclass(frozen=True, slots=True)
class WorkRate:
    """Replica-seconds of work per request, prompt token and output token at the rated batch, of one target."""

    per_request_s: float
    per_prompt_token_s: float
    per_output_token_s: float


@dataclass(frozen=True, slots=True)
class WorkRates:
    """The same of many targets: each (targets, 1)."""

    per_request_s: FloatArray
    per_prompt_token_s: FloatArray
    per_output_token_s: FloatArray

    def work_s(self, requests: FloatArray, prompt_tokens: FloatArray, output_tokens: FloatArray) -> FloatArray:
        """Replica-seconds of the given requests and tokens; NaN wherever one of them is NaN."""
        work: FloatArray = (
            requests * self.per_request_s
            + prompt_tokens * self.per_prompt_token_s
            + output_tokens * self.per_output_token_s
        )
        return work


def stacked(rates: Sequence[WorkRate]) -> WorkRates:
    """Return the rates of many targets, in their order."""

    def column(name: str) -> FloatArray:
        return np.array([[getattr(rate, name)] for rate in rates], dtype=np.float64)

    return WorkRates(column("per_request_s"), column("per_prompt_token_s"), column("per_output_token_s"))


@dataclass(frozen=True, slots=True)
class RunningMean:
    """Tokens per request of each target, (targets,): what stands for a request that does not say.

    `weight` is the number of requests that the mean stands on, capped so that it forgets with a
    time constant of `MEMORY_REQUESTS` requests.
    """

    mean: FloatArray
    weight: FloatArray

    def observe(self, requests: FloatArray, tokens: FloatArray) -> RunningMean:
        """Fold in totals, (targets,); missing (NaN) or empty ones change nothing."""
        seen = (requests > 0) & (tokens >= 0)
        count = np.where(seen, requests, 0.0)
        weight = np.where(seen, np.minimum(self.weight + count, MEMORY_REQUESTS), self.weight)
        gain = np.minimum(count / weight, 1.0)
        per_request = np.divide(tokens, requests, out=self.mean.copy(), where=seen)
        return RunningMean(self.mean + gain * (per_request - self.mean), weight)


@dataclass(frozen=True, slots=True)
class ObservedRating:
    """What each target's replicas really do, as a share of their rating, (targets,).

    The rating holds for one mix of requests; longer sequences, another GPU or a noisy neighbour make
    it less. It shows only under saturation: while a queue stands, the work taken up per replica *is*
    the capacity. Otherwise the share recovers slowly to 1, since what was true under one mix need not
    be under the next.
    """

    share: FloatArray

    def observe(
        self,
        demand_replicas: FloatArray,
        backlog_before: FloatArray,
        backlog_after: FloatArray,
        replicas: FloatArray,
        seconds: float,
    ) -> ObservedRating:
        """Fold in `seconds` of mean raw demand and the backlog (replica-seconds) around them; all (targets,).

        Targets with unknown demand or without a serving replica keep their share.
        """
        if seconds <= 0:
            return self
        usable = np.isfinite(demand_replicas) & (replicas > 0)
        taken_up = demand_replicas - (backlog_after - backlog_before) / seconds
        per_replica = np.divide(taken_up, replicas, out=np.ones_like(replicas), where=usable)
        saturated = usable & (np.minimum(backlog_before, backlog_after) > SATURATED_WAIT_S * replicas)
        seen = np.where(saturated, np.clip(per_replica, LEAST_RATING_SHARE, 1.0), 1.0)
        gain = np.where(saturated, min(seconds / LEARN_S, 1.0), min(seconds / FORGET_S, 1.0))
        return replace(self, share=np.where(usable, self.share + gain * (seen - self.share), self.share))


def demand_replicas(
    rates: WorkRates,
    period_s: float,
    offered: FloatArray,
    prompt_tokens: FloatArray,
    mean_prompt_tokens: FloatArray,
    mean_output_tokens: FloatArray,
) -> FloatArray:
    """Mean demand in each sample period, in replicas, (targets, samples); means are (targets,).

    NaN where the count of offered requests is missing (a gap is not zero load); prompt tokens that are missing
    beside a known count are priced at the mean.
    """
    prompt = np.where(np.isnan(prompt_tokens), offered * mean_prompt_tokens[:, None], prompt_tokens)
    return rates.work_s(offered, prompt, offered * mean_output_tokens[:, None]) / period_s


def backlog_replica_s(
    rates: WorkRates,
    queued: FloatArray,
    queued_prompt_tokens: FloatArray,
    mean_prompt_tokens: FloatArray,
    mean_output_tokens: FloatArray,
) -> FloatArray:
    """Work that waits for a replica, in replica-seconds, (targets, samples); means are (targets,).

    No engine exports the prompt tokens of its queue, so unknown ones are priced at the mean; NaN only where the
    count of queued requests itself is missing.
    """
    prompt = np.where(np.isnan(queued_prompt_tokens), queued * mean_prompt_tokens[:, None], queued_prompt_tokens)
    return np.maximum(rates.work_s(queued, prompt, queued * mean_output_tokens[:, None]), 0.0)
