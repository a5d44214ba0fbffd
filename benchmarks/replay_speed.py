"""How fast the request-level engine is, against SimPy and as traces and fleets grow.

    python -m benchmarks.replay_speed [--requests 1000000] [--json speed.json]

All rates are requests per second of process CPU time on one core, after one warm-up run that loads
the compiled loop. Two SimPy models of the same queue run in the same process on the head of the same
trace: `simpy` keeps virtual time as the engine does (two events a request: the fastest honest SimPy
that we could write), `simpy iterations` steps through every decode iteration of every batch, which
is how such a model is plainly written. The first must agree with the engine on every mean, or the
benchmark fails; the second rounds to whole iterations, so its waits are only near.
"""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import simpy
import typer
from rich.console import Console
from rich.table import Table

from autoscaler.rating.service import ServiceModel, load_service
from policies.arrays import FloatArray
from simulations.engine import Fleet

SERVICE = "llama-3.1-8b-h100"
MEAN_PROMPT, MEAN_OUTPUT = 500, 200
LOAD = 0.8
SLO_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Trace:
    """Poisson arrivals, exponential prompt and output lengths (at least one token)."""

    times_s: FloatArray
    prompts: FloatArray
    outputs: FloatArray


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run took and what became of its requests."""

    cpu_s: float
    completed: int
    wait_mean_s: float
    ttft_mean_s: float


def make_trace(service: ServiceModel, requests: int, replicas: int) -> Trace:
    """Return a trace that loads `replicas` to LOAD of what they are rated for."""
    rng = np.random.default_rng(11)
    rate = LOAD * replicas * service.rated(MEAN_PROMPT, MEAN_OUTPUT).rps
    return Trace(
        np.cumsum(rng.exponential(1.0 / rate, requests)),
        np.ceil(rng.exponential(MEAN_PROMPT, requests)),
        np.ceil(rng.exponential(MEAN_OUTPUT, requests)),
    )


def run_fleet(service: ServiceModel, trace: Trace, replicas: int) -> Outcome:
    """Run the engine, with all its histograms, buckets and one-second samples."""
    end_s = float(trace.times_s[-1]) + 1.0
    fleet = Fleet(service, replicas, SLO_WAIT_S, end_s, 60.0)
    for slot in range(replicas):
        fleet.activate(slot, 0.0)
    begin = time.process_time()
    fleet.advance(end_s, trace.times_s, trace.prompts, trace.outputs)
    fleet.finish()
    cpu_s = time.process_time() - begin
    totals = fleet.totals
    served = totals.dispatched
    return Outcome(cpu_s, totals.completed, totals.wait_sum_s / served, totals.ttft_sum_s / served)


@dataclass(slots=True)
class Batch:
    """One replica of the SimPy model, in virtual time."""

    index: int
    heap: list[tuple[float, float, float]] = field(default_factory=list)
    kv_tokens: float = 0.0
    tokens: float = 0.0
    resumed_s: float = 0.0
    prefill_until_s: float = 0.0
    iteration_s: float = 1.0
    refuses: bool = False
    version: int = 0


class SimpyQueue:
    """The rules of `simulations/engine/events.py` on SimPy's clock."""

    def __init__(self, service: ServiceModel, trace: Trace, replicas: int) -> None:
        self.env = simpy.Environment()
        self.service = service
        self.batches = [Batch(i) for i in range(replicas)]
        self.queue: deque[tuple[float, float, float]] = deque()
        self.waits_s: list[float] = []
        self.ttfts_s: list[float] = []
        self.completed = 0
        self.retry_s = -1.0
        self.env.process(self.arrivals(trace))

    def arrivals(self, trace: Trace) -> Any:
        """Hand each request over at its time, as a SimPy process."""
        rows = zip(trace.times_s.tolist(), trace.prompts.tolist(), trace.outputs.tolist(), strict=True)
        for at_s, prompt, output in rows:
            yield self.env.timeout(at_s - self.env.now)
            self.queue.append((at_s, prompt, output))
            self.dispatch()

    def dispatch(self, _: object = None) -> None:
        """Send heads of the queue on until one must wait, then come back when a backlog is short enough."""
        now_s, service = self.env.now, self.service
        while self.queue:
            best, least, earliest_s = None, float("inf"), float("inf")
            for batch in self.batches:
                if batch.refuses or len(batch.heap) >= service.max_num_seqs:
                    continue
                free_s = batch.prefill_until_s - service.max_prefill_backlog_s
                if free_s > now_s:
                    earliest_s = min(earliest_s, free_s)
                    continue
                key = batch.prefill_until_s + service.router_weight_s * len(batch.heap)
                if key < least:
                    best, least = batch, key
            if best is None:
                if earliest_s < float("inf") and earliest_s != self.retry_s:
                    self.retry_s = earliest_s
                    self.call_after(earliest_s - now_s, self.dispatch)
                return
            self.admit(best)

    def admit(self, batch: Batch) -> None:
        """Take requests from the queue into the batch while its limits allow."""
        now_s, service = self.env.now, self.service
        arrived_s, prompt, output = self.queue[0]
        kv_tokens = prompt + output / 2
        if batch.heap and batch.kv_tokens + kv_tokens > service.kv_tokens_limit:
            batch.refuses = True
            return
        self.queue.popleft()
        start_s = max(now_s, batch.prefill_until_s)
        first_s = start_s + service.prefill_base_s + prompt / service.prefill_tokens_per_s
        if batch.heap and now_s > batch.resumed_s:
            batch.tokens += (now_s - batch.resumed_s) / batch.iteration_s
        heapq.heappush(batch.heap, (batch.tokens + max(output - 1, 0), first_s, kv_tokens))
        batch.kv_tokens += kv_tokens
        batch.prefill_until_s = batch.resumed_s = first_s
        self.waits_s.append(start_s - arrived_s)
        self.ttfts_s.append(first_s - arrived_s)
        self.schedule(batch)

    def schedule(self, batch: Batch) -> None:
        """Await the batch's next completion; an older timeout of it finds its version gone."""
        batch.version += 1
        if not batch.heap:
            batch.tokens = batch.kv_tokens = 0.0
            return
        batch.iteration_s = self.service.iteration_s(len(batch.heap), batch.kv_tokens)
        finish, first_s, _ = batch.heap[0]
        ahead = finish - batch.tokens
        at_s = batch.resumed_s + ahead * batch.iteration_s if ahead > 0 else first_s
        self.call_after(max(at_s - self.env.now, 0.0), self.complete, (batch, batch.version))

    def call_after(self, delay_s: float, callback: Callable[[simpy.Event], None], value: Any = None) -> None:
        """Call back after `delay_s`: cheaper in SimPy than a process that would have to be interrupted."""
        event = self.env.timeout(delay_s, value)
        if event.callbacks is None:
            raise RuntimeError("a new timeout has been processed already")
        event.callbacks.append(callback)

    def complete(self, event: simpy.Event) -> None:
        """End a request and admit the next."""
        batch, version = cast("tuple[Batch, int]", event.value)
        if batch.version != version:
            return
        finish, _, kv_tokens = heapq.heappop(batch.heap)
        if finish > batch.tokens:
            batch.tokens = finish
            batch.resumed_s = self.env.now
        batch.kv_tokens -= kv_tokens
        batch.refuses = False
        self.completed += 1
        self.schedule(batch)
        self.dispatch()


class SimpyIterations:
    """The same queue as it is plainly written: each replica a process that loops over iterations."""

    def __init__(self, service: ServiceModel, trace: Trace, replicas: int) -> None:
        self.env = simpy.Environment()
        self.service = service
        self.queue: deque[tuple[float, float, float]] = deque()
        self.idle: deque[simpy.Event] = deque()
        self.waits_s: list[float] = []
        self.ttfts_s: list[float] = []
        self.completed = 0
        self.env.process(self.arrivals(trace))
        for _ in range(replicas):
            self.env.process(self.replica())

    def arrivals(self, trace: Trace) -> Any:
        """Hand each request over at its time, as a SimPy process."""
        rows = zip(trace.times_s.tolist(), trace.prompts.tolist(), trace.outputs.tolist(), strict=True)
        for at_s, prompt, output in rows:
            yield self.env.timeout(at_s - self.env.now)
            self.queue.append((at_s, prompt, output))
            if self.idle:
                self.idle.popleft().succeed()

    def replica(self) -> Any:
        """Serve one batch, iteration by iteration, as a SimPy process."""
        service, env = self.service, self.env
        left: list[list[float]] = []
        kv_tokens = 0.0
        while True:
            if not left and not self.queue:
                woken = env.event()
                self.idle.append(woken)
                yield woken
            if self.queue and len(left) < service.max_num_seqs:
                arrived_s, prompt, output = self.queue[0]
                if not left or kv_tokens + prompt + output / 2 <= service.kv_tokens_limit:
                    self.queue.popleft()
                    self.waits_s.append(env.now - arrived_s)
                    yield env.timeout(service.prefill_base_s + prompt / service.prefill_tokens_per_s)
                    self.ttfts_s.append(env.now - arrived_s)
                    left.append([output - 1, prompt + output / 2])
                    kv_tokens += prompt + output / 2
                    continue
            yield env.timeout(service.iteration_s(len(left), kv_tokens))
            for sequence in left:
                sequence[0] -= 1
            ended = [s for s in left if s[0] <= 0]
            if ended:
                self.completed += len(ended)
                kv_tokens -= sum(s[1] for s in ended)
                left = [s for s in left if s[0] > 0]


def run_simpy(model: type[SimpyQueue | SimpyIterations], service: ServiceModel, trace: Trace, replicas: int) -> Outcome:
    """Replay `trace` in SimPy and return what it took."""
    queue = model(service, trace, replicas)
    begin = time.process_time()
    queue.env.run()
    cpu_s = time.process_time() - begin
    return Outcome(cpu_s, queue.completed, float(np.mean(queue.waits_s)), float(np.mean(queue.ttfts_s)))


def rate(outcome: Outcome) -> float:
    """Return requests per CPU second."""
    return outcome.completed / outcome.cpu_s


def best_of(times: int, run: Callable[[], Outcome]) -> Outcome:
    """Return the least disturbed of several equal runs: other work on the machine only ever adds."""
    return min((run() for _ in range(times)), key=lambda outcome: outcome.cpu_s)


def engine_rate(service: ServiceModel, requests: int, replicas: int) -> float:
    """Return requests per CPU second of the engine, compiled beforehand."""
    trace = make_trace(service, requests, replicas)
    return rate(best_of(3, lambda: run_fleet(service, trace, replicas)))


def compare_with_simpy(service: ServiceModel, requests: int, replicas: int = 10) -> dict[str, Any]:
    """Rates on equal traces; the engine is timed on a longer head, since it would be done too soon."""
    head = make_trace(service, min(requests, 40_000), replicas)
    short = make_trace(service, min(requests, 20_000), replicas)
    engine_rps = engine_rate(service, requests, replicas)
    same = run_fleet(service, head, replicas)
    queue = best_of(2, lambda: run_simpy(SimpyQueue, service, head, replicas))
    plain = run_simpy(SimpyIterations, service, short, replicas)
    for ours, theirs in ((same.wait_mean_s, queue.wait_mean_s), (same.ttft_mean_s, queue.ttft_mean_s)):
        if abs(ours - theirs) > 1e-9:
            sys.exit(f"the engine and SimPy disagree: {same} against {queue}")
    return {
        "replicas": replicas,
        "engine_rps": engine_rps,
        "simpy_rps": rate(queue),
        "simpy_iterations_rps": rate(plain),
        "engine_over_simpy": engine_rps / rate(queue),
        "engine_over_simpy_iterations": engine_rps / rate(plain),
        "engine_ttft_mean_s": same.ttft_mean_s,
        "simpy_ttft_mean_s": queue.ttft_mean_s,
    }


def measure(requests: int) -> dict[str, Any]:
    """Measure all rows of the table."""
    service = load_service(SERVICE)
    run_fleet(service, make_trace(service, 1000, 2), 2)
    lengths = [requests // 4, requests, requests * 4]
    fleets = [10, 100, 500, 1000]
    return {
        "service": SERVICE,
        "load": LOAD,
        "requests": requests,
        "against_simpy": compare_with_simpy(service, requests),
        "by_length": [{"requests": n, "engine_rps": engine_rate(service, n, 100)} for n in lengths],
        "by_replicas": [{"replicas": r, "engine_rps": engine_rate(service, requests, r)} for r in fleets],
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=f"{found['service']}, load {found['load']:.0%}: requests per second of one core")
    for column, justify in (("what", "left"), ("requests/s", "right"), ("engine is faster by", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich wants its own literal
    simpy_part = found["against_simpy"]
    table.add_row("engine, 10 replicas", f"{simpy_part['engine_rps']:,.0f}", "")
    table.add_row("SimPy, virtual time", f"{simpy_part['simpy_rps']:,.0f}", f"{simpy_part['engine_over_simpy']:,.0f}x")
    ratio = f"{simpy_part['engine_over_simpy_iterations']:,.0f}x"
    table.add_row("SimPy, iteration by iteration", f"{simpy_part['simpy_iterations_rps']:,.0f}", ratio)
    for row in found["by_length"]:
        table.add_row(f"engine, 100 replicas, {row['requests']:,} requests", f"{row['engine_rps']:,.0f}", "")
    for row in found["by_replicas"]:
        table.add_row(f"engine, {row['replicas']:,} replicas", f"{row['engine_rps']:,.0f}", "")
    Console().print(table)


def main(requests: int = 1_000_000, json_file: Path | None = typer.Option(None, "--json")) -> None:  # noqa: B008
    """Measure, print a table, and write JSON to a file (or to standard output behind the table)."""
    found = measure(requests)
    show(found)
    text = json.dumps(found, indent=2)
    if json_file is None:
        print(text)
    else:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
