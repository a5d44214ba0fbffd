"""What is counted while requests pass: totals, buckets, histograms, samples.

A wait, a TTFT and a miss are booked when the request is dispatched, under the bucket in which it
*arrived*, so that a bucket says what became of its own requests. Completions and decode times are
booked under the bucket in which they end. A sample is what a metrics system would scrape: counts
within its period, gauges at its end. Sample j covers [j, j + 1) periods: an event at the very end
belongs to the next. `latency.py` reads the histograms.
"""

from __future__ import annotations

import math

from simulations.engine.jit import kernel
from simulations.engine.layout import BINS, BINS_PER_DECADE, LEAST_S, State


@kernel
def bin_of(seconds: float) -> int:
    """Return the log-spaced bin of a latency: 0 below LEAST_S, BINS - 1 past the last decade."""
    if seconds < LEAST_S:
        return 0
    return min(1 + int(BINS_PER_DECADE * math.log10(seconds / LEAST_S)), BINS - 1)


@kernel
def bucket_of(state: State, at_s: float) -> int:
    """Index of the bucket; what happens after the last is booked under the last."""
    index: int = min(int(at_s / state.model[0].bucket_s), state.buckets.shape[0] - 1)
    return index


@kernel
def count_arrival(state: State, at_s: float, prompt: float) -> None:
    """Count a request that arrives, with its prompt tokens, under the bucket of its arrival."""
    state.totals[0].arrived += 1
    state.totals[0].prompt_tokens += prompt
    state.buckets[bucket_of(state, at_s)].arrived += 1
    clock = state.clock[0]
    clock.period_arrived += 1.0
    clock.period_prompt_tokens += prompt


@kernel
def count_dispatch(state: State, arrived_s: float, wait_s: float, ttft_s: float) -> None:
    """Count a request whose prefill begins: its wait, its TTFT, and a miss if it waited past the SLO."""
    totals = state.totals[0]
    index = bucket_of(state, arrived_s)
    bucket = state.buckets[index]
    totals.dispatched += 1
    totals.wait_s += wait_s
    totals.ttft_s += ttft_s
    totals.wait_max_s = max(totals.wait_max_s, wait_s)
    bucket.dispatched += 1
    bucket.wait_s += wait_s
    bucket.ttft_s += ttft_s
    if wait_s > state.model[0].slo_wait_s:
        totals.misses += 1
        bucket.misses += 1
    wait_bin, ttft_bin = bin_of(wait_s), bin_of(ttft_s)
    state.histograms[0, wait_bin] += 1
    state.histograms[1, ttft_bin] += 1
    state.bucket_histograms[index, 0, (wait_bin + 1) >> 1] += 1
    state.bucket_histograms[index, 1, (ttft_bin + 1) >> 1] += 1


@kernel
def count_completion(state: State, now_s: float, decode_s: float, output: float) -> None:
    """Count a request that ends, with its decode time and output tokens, under the bucket of its end."""
    totals = state.totals[0]
    bucket = state.buckets[bucket_of(state, now_s)]
    gaps = max(output - 1.0, 0.0)
    totals.completed += 1
    totals.output_tokens += output
    totals.decode_s += decode_s
    totals.decode_gaps += gaps
    bucket.completed += 1
    bucket.decode_s += decode_s
    bucket.decode_gaps += gaps
    clock = state.clock[0]
    clock.period_completed += 1.0
    clock.period_output_tokens += output


@kernel
def count_busy(state: State, now_s: float, change: int) -> None:
    """`change` more replicas have something to do from `now_s` on."""
    clock = state.clock[0]
    state.totals[0].busy_s += clock.busy * (now_s - clock.busy_changed_s)
    clock.busy += change
    clock.busy_changed_s = now_s


@kernel
def sample_until(state: State, at_s: float) -> None:
    """Close every sample period that ends at or before `at_s`."""
    clock = state.clock[0]
    period_s = state.model[0].sample_period_s
    while (clock.samples_begun + 1) * period_s <= at_s:
        row = state.samples[clock.sample_rows]
        row[0] = clock.period_arrived
        row[1] = clock.period_prompt_tokens
        row[2] = clock.period_completed
        row[3] = clock.period_output_tokens
        row[4] = clock.running
        row[5] = clock.queued
        row[6] = clock.queued_prompt_tokens
        clock.period_arrived = 0.0
        clock.period_prompt_tokens = 0.0
        clock.period_completed = 0.0
        clock.period_output_tokens = 0.0
        clock.sample_rows += 1
        clock.samples_begun += 1
