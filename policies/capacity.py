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
