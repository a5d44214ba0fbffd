"""The engine against a slow and obvious model of the same rules, event by event.

The slow model keeps every sequence's remaining tokens, counts them down between events, and looks
at every replica for each decision: no virtual time, no heap, no tree. Sizes are drawn real-valued,
so that no two moments coincide and rounding cannot decide a tie.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.rating.service import ServiceModel
from simulations.engine import Fleet

NEVER = float("inf")


@dataclass
class Sequence:
    remaining_tokens: float
    first_token_s: float
    kv_tokens: float


@dataclass
class Replica:
    mode: str = "off"
    prefill_until_s: float = 0.0
    refuses: bool = False
    sequences: list[Sequence] = field(default_factory=list)


class SlowFleet:
    """The rules of `simulations/engine/events.py`, written to be read."""

    def __init__(self, service: ServiceModel, slots: int) -> None:
        self.service = service
        self.replicas = [Replica() for _ in range(slots)]
        self.queue: list[tuple[float, float, float]] = []
        self.now_s = 0.0
        self.arrivals: list[tuple[float, float, float]] = []
        self.waits_s: list[float] = []
        self.ttfts_s: list[float] = []
        self.completed = 0
        self.drained: list[tuple[int, float]] = []

    def next_event_s(self) -> float:
        return min(self._completion()[0], self._dispatch_s(), self._arrival_s())

    def step(self) -> None:
        """Let the next event happen: completion before dispatch before arrival."""
        completion_s, index, sequence = self._completion()
        dispatch_s, arrival_s = self._dispatch_s(), self._arrival_s()
        at_s = min(completion_s, dispatch_s, arrival_s)
        self.pass_time(at_s)
        if completion_s == at_s and sequence is not None:
            self._complete(index, sequence)
        elif dispatch_s == at_s:
            self._dispatch()
        else:
            self.queue.append(self.arrivals.pop(0))

    def pass_time(self, until_s: float) -> None:
        for replica in self.replicas:
            decoded_s = until_s - max(self.now_s, replica.prefill_until_s)
            if decoded_s > 0:
                for sequence in replica.sequences:
                    sequence.remaining_tokens -= decoded_s / self._iteration_s(replica)
        self.now_s = until_s

    def _iteration_s(self, replica: Replica) -> float:
        kv_tokens = sum(s.kv_tokens for s in replica.sequences)
        return self.service.iteration_s(len(replica.sequences), kv_tokens)

    def _arrival_s(self) -> float:
        return self.arrivals[0][0] if self.arrivals else NEVER

    def _completion(self) -> tuple[float, int, Sequence | None]:
        best: tuple[float, int, Sequence | None] = (NEVER, -1, None)
        for index, replica in enumerate(self.replicas):
            for sequence in replica.sequences:
                if sequence.remaining_tokens <= 1e-9:
                    at_s = max(sequence.first_token_s, self.now_s)
                else:
                    start_s = max(self.now_s, replica.prefill_until_s)
                    at_s = start_s + sequence.remaining_tokens * self._iteration_s(replica)
                if at_s < best[0]:
                    best = (at_s, index, sequence)
        return best

    def _candidates(self) -> list[Replica]:
        return [
            r
            for r in self.replicas
            if r.mode == "serving" and not r.refuses and len(r.sequences) < self.service.max_num_seqs
        ]

    def _dispatch_s(self) -> float:
        if not self.queue:
            return NEVER
        backlog_s = self.service.max_prefill_backlog_s
        return min((max(self.now_s, r.prefill_until_s - backlog_s) for r in self._candidates()), default=NEVER)

    def _dispatch(self) -> None:
        arrived_s, prompt, output = self.queue[0]
        kv_tokens = prompt + output / 2
        backlog_s = self.service.max_prefill_backlog_s
        free = [r for r in self._candidates() if r.prefill_until_s - backlog_s <= self.now_s]
        weight_s = self.service.router_weight_s
        best = min(free, key=lambda r: r.prefill_until_s + weight_s * len(r.sequences))
        held = sum(s.kv_tokens for s in best.sequences)
        if best.sequences and held + kv_tokens > self.service.kv_tokens_limit:
            best.refuses = True
            return
        self.queue.pop(0)
        start_s = max(self.now_s, best.prefill_until_s)
        first_s = start_s + self.service.prefill_base_s + prompt / self.service.prefill_tokens_per_s
        best.prefill_until_s = first_s
        best.sequences.append(Sequence(max(output - 1, 0.0), first_s, kv_tokens))
        self.waits_s.append(start_s - arrived_s)
        self.ttfts_s.append(first_s - arrived_s)

    def _complete(self, index: int, sequence: Sequence) -> None:
        replica = self.replicas[index]
        replica.sequences.remove(sequence)
        replica.refuses = False
        self.completed += 1
        if replica.mode == "draining" and not replica.sequences:
            replica.mode = "off"
            self.drained.append((index, self.now_s))

    def control(self, verb: str, slot: int) -> None:
        replica = self.replicas[slot]
        if verb == "activate":
            replica.mode, replica.prefill_until_s, replica.refuses = "serving", self.now_s, False
        elif verb == "undrain":
            replica.mode = "serving"
        elif replica.sequences:
            replica.mode = "draining"
        else:
            replica.mode = "off"
            self.drained.append((slot, self.now_s))


VERBS = {"off": "activate", "serving": "drain", "draining": "undrain"}


def small_service(rng: np.random.Generator) -> ServiceModel:
    """A replica small enough that every limit is met within a few dozen requests."""
    return ServiceModel(
        name="small", source="a test", gpu="none", gpus_per_replica=1, weights_bytes=0,
        prefill_tokens_per_s=float(rng.choice([200.0, 2000.0, np.inf])),
        prefill_base_s=float(rng.choice([0.0, 0.05])), iteration_base_s=0.05,
        iteration_per_sequence_s=float(rng.choice([0.0, 0.02])), iteration_per_kv_token_s=1e-4,
        max_num_seqs=int(rng.integers(1, 6)), kv_tokens_limit=float(rng.uniform(50, 500)),
        max_prefill_backlog_s=float(rng.choice([0.0, 0.1, 0.5])),
        router_weight_s=float(rng.choice([0.01, 0.3])),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), slots=st.integers(1, 5), load=st.sampled_from([0.5, 1.0, 3.0]))
def test_every_request_fares_as_in_the_slow_model(seed: int, slots: int, load: float) -> None:
    """Wait, TTFT, replica and completion of each request, through starts, drains and second thoughts."""
    rng = np.random.default_rng(seed)
    service = small_service(rng)
    count = 60
    prompts = rng.uniform(1, 150, count)
    # A third of the requests want one token: they end with their prefill.
    outputs = np.where(rng.random(count) < 1 / 3, 1.0, rng.uniform(1, 60, count))
    times = np.cumsum(rng.exponential(1.0 / (load * slots * service.rated(75, 20).rps), count))
    controls = np.sort(rng.uniform(0, times[-1] * 1.2, 12))
    slow, fast = SlowFleet(service, slots), Fleet(service, slots, 0.5, times[-1] + 1, 10.0)
    slow.arrivals = list(zip(times.tolist(), prompts.tolist(), outputs.tolist(), strict=True))
    taken = 0

    def catch_up(until_s: float) -> None:
        nonlocal taken
        ready = int(np.searchsorted(times, until_s))
        piece = slice(taken, ready)
        fast.advance(until_s, times[piece], prompts[piece], outputs[piece])
        taken = ready

    def compare() -> None:
        assert fast.running_per_slot().tolist() == [len(r.sequences) for r in slow.replicas]
        assert (fast.totals.queued, fast.totals.completed, fast.totals.dispatched) == (
            len(slow.queue), slow.completed, len(slow.waits_s)
        )  # fmt: skip
        assert fast.totals.wait_sum_s == pytest.approx(sum(slow.waits_s), abs=1e-7)
        assert fast.totals.ttft_sum_s == pytest.approx(sum(slow.ttfts_s), abs=1e-7)
        assert fast.totals.misses == sum(w > 0.5 for w in slow.waits_s)

    for control_s in [*controls.tolist(), NEVER]:
        while (event_s := slow.next_event_s()) < control_s:
            slow.step()
            after_s = min(slow.next_event_s(), control_s)
            if after_s - event_s > 1e-6:
                catch_up(event_s + (1e-6 if after_s == NEVER else (after_s - event_s) / 2))
                compare()
        if control_s < NEVER:
            catch_up(control_s)
            slow.pass_time(control_s)
            slot = int(rng.integers(slots))
            verb = VERBS[slow.replicas[slot].mode]
            slow.control(verb, slot)
            getattr(fast, verb)(slot, control_s)

    fast.finish()
    drained = fast.take_drained()
    assert [slot for slot, _ in drained] == [slot for slot, _ in slow.drained]
    assert [at_s for _, at_s in drained] == pytest.approx([at_s for _, at_s in slow.drained])
