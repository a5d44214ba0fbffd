"""The memory of one fleet: flat arrays that the kernels share, allocated once.

Nothing here grows with the trace but the central queue, which grows with its longest length, and
the buckets, which are `duration / bucket` many. `State` is what every kernel is handed. Times are
float64 seconds from the start of the replay, token counts float64 (a request may have a real-valued
output, which is how queueing theory is tested). `tally.py` says what the counters mean.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscaler.rating.service import ServiceModel
from policies.arrays import FloatArray
from simulations.engine.tournament import make_tree

OFF, SERVING, DRAINING = 0, 1, 2

BINS_PER_DECADE = 64
"""Of the overall histograms; those per bucket have half as many, to keep a week of minutes small."""
LEAST_S, DECADES = 1e-4, 8
BINS = BINS_PER_DECADE * DECADES + 2
"""One bin below 1e-4 s (zero included) and one from 1e4 s up, at the ends."""
BUCKET_BINS = BINS_PER_DECADE // 2 * DECADES + 2

VIRTUAL_FINISH, FIRST_TOKEN, KV, OUTPUT = 0, 1, 2, 3
"""Columns of a batch entry, see `batch.py`."""
ARRIVED, PROMPT, OUTPUT_TOKENS = 0, 1, 2
"""Columns of the central queue."""
SAMPLE_FIELDS = (
    "arrived",
    "prompt_tokens",
    "completed",
    "output_tokens",
    "running",
    "queued",
    "queued_prompt_tokens",
)

MODEL = np.dtype(
    [
        ("prefill_s_per_token", "f8"),
        ("prefill_base_s", "f8"),
        ("iteration_base_s", "f8"),
        ("iteration_per_sequence_s", "f8"),
        ("iteration_per_kv_token_s", "f8"),
        ("kv_tokens_limit", "f8"),
        ("max_prefill_backlog_s", "f8"),
        ("router_weight_s", "f8"),
        ("slo_wait_s", "f8"),
        ("bucket_s", "f8"),
        ("sample_period_s", "f8"),
        ("max_num_seqs", "i8"),
    ],
    align=True,
)
SLOT = np.dtype(
    [
        ("virtual_tokens", "f8"),
        ("resumed_s", "f8"),
        ("iteration_s", "f8"),
        ("prefill_until_s", "f8"),
        ("kv_tokens", "f8"),
        ("running", "i8"),
        ("mode", "i4"),
        ("refuses", "i4"),
    ],
    align=True,
)
CLOCK = np.dtype(
    [
        ("now_s", "f8"),
        ("queue_head", "i8"),
        ("queued", "i8"),
        ("queued_prompt_tokens", "f8"),
        ("running", "i8"),
        ("busy", "i8"),
        ("busy_changed_s", "f8"),
        ("samples_begun", "i8"),
        ("sample_rows", "i8"),
        ("drained_rows", "i8"),
        ("period_arrived", "f8"),
        ("period_prompt_tokens", "f8"),
        ("period_completed", "f8"),
        ("period_output_tokens", "f8"),
    ],
    align=True,
)
TOTALS = np.dtype(
    [
        ("arrived", "i8"),
        ("dispatched", "i8"),
        ("completed", "i8"),
        ("misses", "i8"),
        ("wait_s", "f8"),
        ("ttft_s", "f8"),
        ("wait_max_s", "f8"),
        ("prompt_tokens", "f8"),
        ("output_tokens", "f8"),
        ("decode_s", "f8"),
        ("decode_gaps", "f8"),
        ("busy_s", "f8"),
    ],
    align=True,
)
BUCKET = np.dtype(
    [
        ("arrived", "i8"),
        ("dispatched", "i8"),
        ("completed", "i8"),
        ("misses", "i8"),
        ("wait_s", "f8"),
        ("ttft_s", "f8"),
        ("decode_s", "f8"),
        ("decode_gaps", "f8"),
    ],
    align=True,
)


class State(NamedTuple):
    """All that the kernels read and write. `[0]` of a one-row record array is the record itself."""

    model: NDArray[Any]
    """MODEL, one row."""
    clock: NDArray[Any]
    """CLOCK, one row."""
    totals: NDArray[Any]
    """TOTALS, one row."""
    slots: NDArray[Any]
    """SLOT, (slots,)."""
    batches: FloatArray
    """(slots, max_num_seqs, 4): a binary heap per slot."""
    routing: FloatArray
    """Tree of the slots that may take a request now, by routing key."""
    blocked: FloatArray
    """Tree of the slots whose prefill backlog is too long, by the time when it no longer is."""
    completions: FloatArray
    """Tree of all slots by their next completion, seconds."""
    queue: FloatArray
    """(capacity, 3), a ring; the capacity is a power of two."""
    buckets: NDArray[Any]
    """BUCKET, (buckets,)."""
    histograms: NDArray[np.int64]
    """(2, BINS): wait, TTFT."""
    bucket_histograms: NDArray[np.int32]
    """(buckets, 2, BUCKET_BINS)."""
    samples: FloatArray
    """(capacity, len(SAMPLE_FIELDS)): rows of this call."""
    drained: FloatArray
    """(slots, 2): slot, seconds; rows of this call."""


def allocate(  # noqa: PLR0913, PLR0917 - the arguments of `Fleet`
    service: ServiceModel,
    slots: int,
    slo_wait_s: float,
    duration_s: float,
    bucket_s: float,
    sample_period_s: float,
) -> State:
    """Return a fleet at time zero with every slot off."""
    buckets = max(1, math.ceil(duration_s / bucket_s - 1e-9))
    return State(
        model=_model(service, slo_wait_s, bucket_s, sample_period_s),
        clock=np.zeros(1, CLOCK),
        totals=np.zeros(1, TOTALS),
        slots=np.zeros(slots, SLOT),
        batches=np.zeros((slots, service.max_num_seqs, 4)),
        routing=make_tree(slots),
        blocked=make_tree(slots),
        completions=make_tree(slots),
        queue=np.zeros((1024, 3)),
        buckets=np.zeros(buckets, BUCKET),
        histograms=np.zeros((2, BINS), np.int64),
        bucket_histograms=np.zeros((buckets, 2, BUCKET_BINS), np.int32),
        samples=np.zeros((16, len(SAMPLE_FIELDS))),
        drained=np.zeros((slots, 2)),
    )


def _model(service: ServiceModel, slo_wait_s: float, bucket_s: float, sample_period_s: float) -> NDArray[Any]:
    model = np.zeros(1, MODEL)
    for name in (
        "prefill_base_s",
        "iteration_base_s",
        "iteration_per_sequence_s",
        "iteration_per_kv_token_s",
        "kv_tokens_limit",
        "max_prefill_backlog_s",
        "router_weight_s",
        "max_num_seqs",
    ):
        model[name] = getattr(service, name)
    model["prefill_s_per_token"] = 1.0 / service.prefill_tokens_per_s
    model["slo_wait_s"] = slo_wait_s
    model["bucket_s"] = bucket_s
    model["sample_period_s"] = sample_period_s
    return model


def with_longer_queue(state: State) -> State:
    """Return the same state with room for twice as many queued requests."""
    capacity = state.queue.shape[0]
    order = (int(state.clock[0]["queue_head"]) + np.arange(capacity)) % capacity
    queue = np.zeros((2 * capacity, 3))
    queue[:capacity] = state.queue[order]
    state.clock[0]["queue_head"] = 0
    return state._replace(queue=queue)
