"""From tokens to replicas: what demand means.

A replica's work on a request is linear in its tokens: prefill takes time per prompt token, decode a
share of the batch's iteration per output token. `WorkRate` holds those three coefficients for a
replica at its *rated* batch, in replica-seconds; demand is then work that arrives per second, in
replicas, and 1.0 is exactly what one replica sustains. Demand is always computed from *offered*
requests: completions understate load just when it matters. The forecast takes over from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.types import FloatArray

SATURATED_WAIT_S = 0.1
"""A queue of this many seconds on both sides of a sample is one that stands."""
LEAST_RATING_SHARE = 0.25
"""Below a quarter of its rating a replica is broken rather than busy: no plan should chase it."""


@dataclass(frozen=True, slots=True)
class WorkRate:
    """Replica-seconds of work per request, prompt token and output token at the rated batch."""

    per_request_s: float
    per_prompt_token_s: float
    per_output_token_s: float

    def work_s(self, requests: FloatArray, prompt_tokens: FloatArray, output_tokens: FloatArray) -> FloatArray:
        """Replica-seconds of the given requests and tokens; NaN wherever one of them is NaN."""
        return (
            requests * self.per_request_s
            + prompt_tokens * self.per_prompt_token_s
            + output_tokens * self.per_output_token_s
        )


@dataclass(frozen=True, slots=True)
class OutputLength:
    """Running mean of output tokens per completed request: an offered request's is not known yet.

    `weight` is the number of completions that the mean stands on, capped so that it forgets with a
    time constant of `memory_requests` completions.
    """

    mean_tokens: float
    weight: float
    memory_requests: float = 5000.0

    def observe(self, completed: float, output_tokens: float) -> OutputLength:
        """Fold in completions; missing (NaN) or empty samples change nothing."""
        if not completed > 0 or not output_tokens >= 0:
            return self
        weight = min(self.weight + completed, self.memory_requests)
        gain = min(completed / weight, 1.0)
        mean = self.mean_tokens + gain * (output_tokens / completed - self.mean_tokens)
        return OutputLength(mean, weight, self.memory_requests)


@dataclass(frozen=True, slots=True)
class ObservedRating:
    """What a replica really does, as a share of its rating.

    The rating holds for one mix of requests; longer sequences, another card or a noisy neighbour make
    it less. It shows only under saturation: while a queue stands, the work taken up per replica *is*
    the capacity. Otherwise the share recovers slowly to 1, since what was true under one mix need not
    be under the next.
    """

    share: float = 1.0
    learn_s: float = 20.0
    forget_s: float = 900.0

    def observe(
        self, demand_replicas: float, backlog_before: float, backlog_after: float, replicas: float, seconds: float
    ) -> ObservedRating:
        """Fold in `seconds` of raw demand and the backlog (replica-seconds) around them."""
        if not (np.isfinite(demand_replicas) and replicas > 0 and seconds > 0):
            return self
        if min(backlog_before, backlog_after) > SATURATED_WAIT_S * replicas:
            taken_up = demand_replicas - (backlog_after - backlog_before) / seconds
            seen = min(max(taken_up / replicas, LEAST_RATING_SHARE), 1.0)
            gain = min(seconds / self.learn_s, 1.0)
        else:
            seen, gain = 1.0, min(seconds / self.forget_s, 1.0)
        return ObservedRating(self.share + gain * (seen - self.share), self.learn_s, self.forget_s)


def demand_replicas(
    rate: WorkRate, period_s: float, offered: FloatArray, prompt_tokens: FloatArray, mean_output_tokens: float
) -> FloatArray:
    """Mean demand in each sample period, in replicas; NaN stays NaN (a gap is not zero load)."""
    return rate.work_s(offered, prompt_tokens, offered * mean_output_tokens) / period_s


def backlog_replica_s(rate: WorkRate, queued: float, queued_prompt_tokens: float, mean_output_tokens: float) -> float:
    """Work that waits for a replica, in replica-seconds; 0 where the gauges are missing."""
    waiting = np.array([queued, queued_prompt_tokens, queued * mean_output_tokens])
    work = float(rate.work_s(waiting[:1], waiting[1:2], waiting[2:])[0])
    return work if work > 0 else 0.0
