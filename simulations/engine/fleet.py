"""The interface of the engine: one target's replicas, moved through time piece by piece.

`Fleet` checks what it is given, feeds the compiled loop of `events.py` in pieces of bounded size,
and hands out what was counted. Splitting a stretch of time into several calls of `advance` changes
nothing, to the last bit. Times are seconds from the start of the replay; a piece [a, b) holds
everything from a up to, and without, b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autoscaler.rating.service import ServiceModel
from policies.arrays import FloatArray
from simulations.engine.events import place_slot, run
from simulations.engine.latency import LatencyHistogram
from simulations.engine.layout import (
    ARRIVED,
    DRAINING,
    OFF,
    SAMPLE_FIELDS,
    SERVING,
    allocate,
    with_longer_queue,
)

PIECE = 65536
"""Arrivals handed to the loop at once: large enough to forget the call, small enough for the cache."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the requests that arrived from some moment on (see `Fleet.summary`)."""

    arrived: int
    dispatched: int
    completed: int
    """Completions from that moment on, whenever their requests had arrived."""
    misses: int
    wait_mean_s: float
    ttft_mean_s: float
    itl_mean_s: float
    """Mean seconds between output tokens of the completed requests."""
    wait: LatencyHistogram
    ttft: LatencyHistogram


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts and sums from the start up to one moment; arrived = completed + running + queued."""

    arrived: int
    dispatched: int
    completed: int
    misses: int
    """Requests whose prefill began later than the SLO after their arrival."""
    queued: int
    queued_prompt_tokens: float
    running: int
    """Requests on replicas, prefill included."""
    wait_sum_s: float
    """Over the dispatched requests."""
    wait_max_s: float
    ttft_sum_s: float
    """Over the dispatched requests."""
    prompt_tokens: float
    """Of the arrived requests."""
    output_tokens: float
    """Of the completed requests."""
    itl_mean_s: float
    """Mean seconds between output tokens of the completed requests; NaN without any."""
    busy_s: float
    """Replica-seconds in which a replica had at least one request."""


class Fleet:
    """A central queue before `slots` replica slots, all off at first."""

    def __init__(  # noqa: PLR0913, PLR0917 - what the compiled state is allocated from
        self,
        service: ServiceModel,
        slots: int,
        slo_wait_s: float,
        duration_s: float,
        bucket_s: float,
        sample_period_s: float = 1.0,
    ) -> None:
        """Memory: 32 bytes x slots x max_num_seqs, 2.2 kB a bucket, 24 bytes per queued request."""
        if slots < 1 or not (slo_wait_s >= 0 and 0 < duration_s < math.inf and bucket_s > 0 and sample_period_s > 0):
            raise ValueError("a fleet needs slots, a finite duration, and positive periods")
        self.service = service
        self._state = allocate(service, slots, slo_wait_s, duration_s, bucket_s, sample_period_s)
        self._now_s = 0.0
        self._finished = False
        self._drained: list[tuple[int, float]] = []
        self._samples: list[FloatArray] = []
        self._stage = np.zeros((3, PIECE))

    # Time.

    @property
    def now_s(self) -> float:
        """The moment at which the fleet stands: everything before it has happened."""
        return self._now_s

    def advance(self, until_s: float, times_s: ArrayLike, prompt_tokens: ArrayLike, output_tokens: ArrayLike) -> None:
        """Serve up to `until_s`, with the arrivals of [now, until_s): sorted times and their tokens.

        Raises ValueError when time would go back, or arrivals are unsorted, NaN or out of the piece.
        """
        if self._finished or not self._now_s <= until_s < math.inf:
            raise ValueError(f"cannot advance from {self._now_s} to {until_s} (finished: {self._finished})")
        times = np.asarray(times_s, dtype=np.float64)
        prompts, outputs = np.asarray(prompt_tokens), np.asarray(output_tokens)
        if not times.shape == prompts.shape == outputs.shape == (times.size,):
            raise ValueError(f"arrivals disagree: {times.shape}, {prompts.shape}, {outputs.shape}")
        self._check_arrivals(times, until_s)
        self._make_room_for_samples(until_s)
        for begin in range(0, max(times.size, 1), PIECE):
            piece = slice(begin, begin + PIECE)
            last = begin + PIECE >= times.size
            self._run(times[piece], prompts[piece], outputs[piece], until_s, more=not last)
        self._now_s = until_s
        self._state.clock[0]["now_s"] = until_s
        self._collect()

    def finish(self) -> float:
        """Serve on without arrivals until nothing more can happen; the time of the last event.

        Requests that no replica will ever take stay queued; those that have waited past the SLO by
        then are booked as misses. No samples are taken. Afterwards the fleet is closed.
        """
        if not self._finished:
            nothing = np.zeros(0)
            self._run(nothing, nothing, nothing, math.inf, more=False, sampling=False)
            self._now_s = max(self._now_s, float(self._state.clock[0]["now_s"]))
            self._collect()
            self._book_stranded()
            self._finished = True
        return self._now_s

    # Replicas.

    def activate(self, slot: int, at_s: float) -> None:
        """Off to serving, at the fleet's present moment, with an empty batch."""
        record = self._slot(slot, at_s, OFF, "off")
        record["mode"] = SERVING
        record["refuses"] = 0
        record["prefill_until_s"] = record["resumed_s"] = at_s
        place_slot(self._state, slot, at_s)

    def drain(self, slot: int, at_s: float) -> None:
        """Take nothing new; off when the last request ends (at once, if there is none)."""
        record = self._slot(slot, at_s, SERVING, "serving")
        record["mode"] = DRAINING
        if record["running"] == 0:
            record["mode"] = OFF
            self._drained.append((slot, at_s))
        place_slot(self._state, slot, at_s)

    def undrain(self, slot: int, at_s: float) -> None:
        """Draining back to serving."""
        self._slot(slot, at_s, DRAINING, "draining")["mode"] = SERVING
        place_slot(self._state, slot, at_s)

    def take_drained(self) -> list[tuple[int, float]]:
        """Slots that went off since the last call, with the moments when they became empty."""
        drained, self._drained = self._drained, []
        return drained

    # What was seen.

    def take_samples(self) -> FloatArray:
        """Sample periods finished since the last call: (rows, 7), columns as in SAMPLE_FIELDS."""
        if not self._samples:
            return np.zeros((0, len(SAMPLE_FIELDS)))
        samples, self._samples = np.concatenate(self._samples), []
        return samples

    def running_per_slot(self) -> NDArray[np.int64]:
        """Return requests that each slot holds now (prefill included), (slots,)."""
        return np.array(self._state.slots["running"])

    def modes(self) -> NDArray[np.int64]:
        """Return each slot's mode (OFF, SERVING or DRAINING of `layout.py`), (slots,)."""
        return np.array(self._state.slots["mode"], dtype=np.int64)

    @property
    def totals(self) -> Totals:
        """Return what has happened up to now."""
        totals, clock = self._state.totals[0], self._state.clock[0]
        return Totals(
            arrived=int(totals["arrived"]),
            dispatched=int(totals["dispatched"]),
            completed=int(totals["completed"]),
            misses=int(totals["misses"]),
            queued=int(clock["queued"]),
            queued_prompt_tokens=float(clock["queued_prompt_tokens"]),
            running=int(clock["running"]),
            wait_sum_s=float(totals["wait_s"]),
            wait_max_s=float(totals["wait_max_s"]),
            ttft_sum_s=float(totals["ttft_s"]),
            prompt_tokens=float(totals["prompt_tokens"]),
            output_tokens=float(totals["output_tokens"]),
            itl_mean_s=_ratio(totals["decode_s"], totals["decode_gaps"]),
            busy_s=float(totals["busy_s"] + clock["busy"] * (self._now_s - clock["busy_changed_s"])),
        )

    @property
    def wait(self) -> LatencyHistogram:
        """Waits of all dispatched requests, 64 bins a decade."""
        return LatencyHistogram(self._state.histograms[0].copy())

    @property
    def ttft(self) -> LatencyHistogram:
        """First-token times of all dispatched requests, 64 bins a decade."""
        return LatencyHistogram(self._state.histograms[1].copy())

    # By bucket.

    @property
    def bucket_arrived(self) -> NDArray[np.int64]:
        """Arrivals by bucket, (buckets,)."""
        return np.array(self._state.buckets["arrived"])

    @property
    def bucket_misses(self) -> NDArray[np.int64]:
        """Misses by bucket of arrival, (buckets,)."""
        return np.array(self._state.buckets["misses"])

    def bucket_ttft_percentiles(self, percents: tuple[float, ...]) -> FloatArray:
        """TTFT percentiles by bucket of arrival, (percents, buckets), NaN for an empty bucket."""
        histograms = [LatencyHistogram(row.astype(np.int64)) for row in self._state.bucket_histograms[:, 1]]
        return np.array([[h.percentile(p) for h in histograms] for p in percents])

    def summary(self, from_s: float = 0.0) -> Summary:
        """Of the buckets from `from_s` on (which should be a multiple of `bucket_s`).

        From zero on the histograms are the fine ones, else the sums of the buckets' (32 bins a decade).
        """
        first = math.ceil(from_s / float(self._state.model[0]["bucket_s"]) - 1e-9)
        rows = self._state.buckets[first:]
        total = {name: rows[name].sum() for name in rows.dtype.names or ()}
        histograms = self._state.bucket_histograms[first:].sum(axis=0, dtype=np.int64)
        return Summary(
            arrived=int(total["arrived"]),
            dispatched=int(total["dispatched"]),
            completed=int(total["completed"]),
            misses=int(total["misses"]),
            wait_mean_s=_ratio(total["wait_s"], total["dispatched"]),
            ttft_mean_s=_ratio(total["ttft_s"], total["dispatched"]),
            itl_mean_s=_ratio(total["decode_s"], total["decode_gaps"]),
            wait=self.wait if first == 0 else LatencyHistogram(histograms[0]),
            ttft=self.ttft if first == 0 else LatencyHistogram(histograms[1]),
        )

    # Inside.

    def _check_arrivals(self, times: FloatArray, until_s: float) -> None:
        if times.size == 0:
            return
        # Written so that a NaN anywhere fails.
        if not (times[0] >= self._now_s and times[-1] < until_s and bool(np.all(times[1:] >= times[:-1]))):
            raise ValueError(f"arrivals must be sorted and lie in [{self._now_s}, {until_s})")

    def _run(  # noqa: PLR0913 - a piece and what to do at its end
        self,
        times: FloatArray,
        prompts: NDArray[np.generic],
        outputs: NDArray[np.generic],
        until_s: float,
        *,
        more: bool,
        sampling: bool = True,
    ) -> None:
        # Staged copies have one type and layout, so that one compiled loop serves every caller.
        staged = self._stage[:, : times.size]
        staged[0], staged[1], staged[2] = times, prompts, outputs
        taken = 0
        while True:
            taken = run(self._state, staged[0], staged[1], staged[2], taken, until_s, sampling, more)
            if taken == times.size:
                return
            self._state = with_longer_queue(self._state)

    def _slot(self, slot: int, at_s: float, mode: int, word: str) -> np.void:
        if at_s != self._now_s:
            raise ValueError(f"the fleet stands at {self._now_s}, not at {at_s}")
        if not 0 <= slot < self._state.slots.shape[0]:
            raise ValueError(f"no slot {slot}")
        record: np.void = self._state.slots[slot]
        if record["mode"] != mode:
            raise ValueError(f"slot {slot} is not {word}")
        return record

    def _make_room_for_samples(self, until_s: float) -> None:
        ahead = until_s / float(self._state.model[0]["sample_period_s"]) - int(self._state.clock[0]["samples_begun"])
        if ahead + 2 > self._state.samples.shape[0]:
            self._state = self._state._replace(samples=np.zeros((int(ahead) + 2, len(SAMPLE_FIELDS))))

    def _book_stranded(self) -> None:
        """Misses among the requests that nobody will serve."""
        clock, model = self._state.clock[0], self._state.model[0]
        places = (int(clock["queue_head"]) + np.arange(int(clock["queued"]))) % self._state.queue.shape[0]
        arrived = self._state.queue[places, ARRIVED]
        late = arrived[self._now_s - arrived > model["slo_wait_s"]]
        buckets = np.minimum((late / model["bucket_s"]).astype(np.int64), self._state.buckets.shape[0] - 1)
        self._state.totals[0]["misses"] += late.size
        np.add.at(self._state.buckets["misses"], buckets, 1)

    def _collect(self) -> None:
        clock = self._state.clock[0]
        if clock["sample_rows"]:
            self._samples.append(self._state.samples[: clock["sample_rows"]].copy())
            clock["sample_rows"] = 0
        for slot, at_s in self._state.drained[: clock["drained_rows"]]:
            self._drained.append((int(slot), float(at_s)))
        clock["drained_rows"] = 0


def _ratio(amount: float, count: float) -> float:
    return float(amount) / float(count) if count else float("nan")
