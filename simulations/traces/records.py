"""The three kinds of record, told by the header: arrivals, counts by minute, rates by client.

A record is what a file says, checked and in arrays; it knows no seed and no scale. How each kind
becomes a stream of requests is told in `from_arrivals.py`, `from_counts.py` and `from_rates.py`. The
token lengths that belong to rates stand in a file of their own (`tokens.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from simulations.traces.arrays import IntArray
from simulations.traces.columns import not_negative, refuse_where, utc_ns, whole_numbers
from simulations.traces.tables import Block, TraceFile, read_table

NS = 1_000_000_000
LONGEST_S = 10 * 365 * 86_400.0
"""Ten years: more seconds than that are an epoch that someone forgot to subtract."""
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE = ("timestamp_ms", "input_length", "output_length")
PLAIN = ("time_s", "prompt_tokens", "output_tokens")
COUNTS = ("minute_utc", "requests")
RATES = ("window_start_s", "client", "rate_rps", "cv")


@dataclass(frozen=True, slots=True)
class ArrivalRecord:
    """Single requests; all arrays (requests,), times in ns from the record's start, ascending.

    Where `tick_ns` is not 0 the times are the ticks of a coarse clock, `tick_ns` apart, and a request
    came somewhere within its tick.
    """

    times_ns: IntArray
    prompts: NDArray[np.int32]
    outputs: NDArray[np.int32]
    tick_ns: int

    @property
    def span_ns(self) -> int:
        """From the record's start to the whole second after its last request."""
        return (int(self.times_ns[-1] + self.tick_ns) // NS + 1) * NS


@dataclass(frozen=True, slots=True)
class CountRecord:
    """Requests by minute, every minute of the span in its place; -1 where the record has a gap."""

    requests: IntArray
    """(minutes,)"""

    @property
    def span_ns(self) -> int:
        """Return the length of the record, in nanoseconds."""
        return self.requests.size * 60 * NS


@dataclass(frozen=True, slots=True)
class RateRecord:
    """Rates and burstiness by client and window; a window that no client is in is a gap."""

    clients: tuple[str, ...]
    window_s: float
    rate_rps: FloatArray
    """(clients, windows), 0 where the client sent nothing."""
    cv: FloatArray
    """(clients, windows), 1 where the client sent nothing."""
    known: NDArray[np.bool_]
    """(windows,)"""

    @property
    def span_ns(self) -> int:
        """Return the length of the record, in nanoseconds."""
        return round(self.known.size * self.window_s * NS)


Record = ArrivalRecord | CountRecord | RateRecord


def read_record(file: TraceFile) -> Record:
    """Read a trace of any of the three kinds; InputError says what is wrong with the file, and where."""
    header, blocks = read_table(file)
    for columns, read in _READERS.items():
        if set(columns) <= set(header):
            return read(file, blocks)
    known = " or ".join(",".join(columns) for columns in _READERS)
    raise file.refusal("these columns are not those of a trace", f"expected {known}", line=1, value=",".join(header))


def _azure(file: TraceFile, blocks: Iterator[Block]) -> ArrivalRecord:
    """Read the Azure LLM inference traces: UTC with 100 ns digits. The first request is the start."""
    times, prompts, outputs = _arrivals(blocks, AZURE, utc_ns)
    return ArrivalRecord(times - times[0], prompts, outputs, tick_ns=0)


def _mooncake(file: TraceFile, blocks: Iterator[Block]) -> ArrivalRecord:
    """Read the Mooncake traces: ms from the start, on a clock that ticks every 3 s in the published files."""
    times, prompts, outputs = _arrivals(
        blocks, MOONCAKE, lambda block, field: _from_start_ns(block, field, units_per_s=1000.0)
    )
    return ArrivalRecord(times, prompts, outputs, tick_ns=_tick_ns(times))


def _plain(file: TraceFile, blocks: Iterator[Block]) -> ArrivalRecord:
    times, prompts, outputs = _arrivals(blocks, PLAIN, lambda block, field: _from_start_ns(block, field, 1.0))
    return ArrivalRecord(times, prompts, outputs, tick_ns=0)


def _arrivals(
    blocks: Iterator[Block], columns: tuple[str, ...], read_times: Callable[[Block, str], IntArray]
) -> tuple[IntArray, NDArray[np.int32], NDArray[np.int32]]:
    times, prompts, outputs = [], [], []
    last_ns = np.iinfo(np.int64).min
    for block in blocks:
        at_ns = read_times(block, columns[0])
        _refuse_unsorted(block, columns[0], at_ns, last_ns)
        last_ns = int(at_ns[-1])
        times.append(at_ns)
        prompts.append(whole_numbers(block, columns[1]).astype(np.int32))
        outputs.append(whole_numbers(block, columns[2]).astype(np.int32))
    return np.concatenate(times), np.concatenate(prompts), np.concatenate(outputs)


def _from_start_ns(block: Block, field: str, units_per_s: float) -> IntArray:
    values = not_negative(block, field)
    hint = "count from the start of the trace, not from 1970"
    refuse_where(block, field, values > LONGEST_S * units_per_s, "this is more than ten years", hint)
    return np.rint(values * (NS / units_per_s)).astype(np.int64)


def _tick_ns(times_ns: IntArray) -> int:
    """Return the clock's step where several requests share a stamp and stamps are a second apart or more."""
    stamps = np.unique(times_ns)
    if stamps.size < 2 or times_ns.size < 2 * stamps.size:
        return 0
    step = int(np.median(np.diff(stamps)))
    return step if step >= NS else 0


def _counts(file: TraceFile, blocks: Iterator[Block]) -> CountRecord:
    minutes, requests = [], []
    last_ns = np.iinfo(np.int64).min
    for block in blocks:
        at_ns = utc_ns(block, "minute_utc")
        refuse_where(
            block, "minute_utc", at_ns % (60 * NS) != 0, "this is not a whole minute", "give one row per minute"
        )
        _refuse_unsorted(block, "minute_utc", at_ns, last_ns, ties=False)
        last_ns = int(at_ns[-1])
        minutes.append(at_ns // (60 * NS))
        requests.append(whole_numbers(block, "requests"))
    place = np.concatenate(minutes)
    place -= place[0]
    filled = np.full(int(place[-1]) + 1, -1, dtype=np.int64)
    filled[place] = np.concatenate(requests)
    return CountRecord(filled)


def _rates(file: TraceFile, blocks: Iterator[Block]) -> RateRecord:
    names: list[str] = []
    lines: list[int] = []
    starts, rates, cvs = [], [], []
    last_ns = np.iinfo(np.int64).min
    for block in blocks:
        at_ns = np.rint(not_negative(block, "window_start_s") * NS).astype(np.int64)
        _refuse_unsorted(block, "window_start_s", at_ns, last_ns)
        last_ns = int(at_ns[-1])
        starts.append(at_ns)
        names.extend(block.columns["client"])
        rates.append(not_negative(block, "rate_rps"))
        cvs.append(not_negative(block, "cv"))
        lines.extend(block.lines)
    at_ns = np.concatenate(starts)
    window_ns = _window_ns(file, at_ns, lines)
    window = (at_ns - at_ns[0]) // window_ns
    clients = tuple(sorted(set(names), key=lambda name: (len(name), name)))
    index = {name: i for i, name in enumerate(clients)}
    client = np.array([index[name] for name in names], dtype=np.int64)
    _refuse_twice(file, client, window, names, lines)
    shape = (len(clients), int(window[-1]) + 1)
    rate, cv = np.zeros(shape), np.ones(shape)
    rate[client, window] = np.concatenate(rates)
    cv[client, window] = np.concatenate(cvs)
    known = np.zeros(shape[1], dtype=np.bool_)
    known[window] = True
    return RateRecord(clients, window_ns / NS, rate, cv, known)


def _window_ns(file: TraceFile, at_ns: IntArray, lines: list[int]) -> int:
    """Return the windows' length: the smallest step between two starts, which must divide all others."""
    steps = np.diff(np.unique(at_ns))
    if steps.size == 0:
        raise file.refusal(
            "all rows are of one window, so its length is unknown", "give two windows or more", field="window_start_s"
        )
    length = int(steps.min())
    odd = (at_ns - at_ns[0]) % length != 0
    if odd.any():
        row = int(odd.argmax())
        raise file.refusal(
            f"windows are {length / NS:g} s long, and this start does not lie on their grid",
            "give windows of one length",
            line=lines[row],
            field="window_start_s",
            value=f"{at_ns[row] / NS:g}",
        )
    return length


def _refuse_unsorted(block: Block, field: str, at_ns: IntArray, last_ns: int, *, ties: bool = True) -> None:
    before = np.concatenate(([last_ns], at_ns[:-1]))
    wrong = at_ns < before if ties else at_ns <= before
    refuse_where(block, field, wrong, "this is not later than the row before", "sort the rows by time")


def _refuse_twice(file: TraceFile, client: IntArray, window: IntArray, names: list[str], lines: list[int]) -> None:
    cell = client * (int(window[-1]) + 1) + window
    _, first = np.unique(cell, return_index=True)
    if first.size < cell.size:
        row = int(np.setdiff1d(np.arange(cell.size), first)[0])
        raise file.refusal(
            "this client has a row for this window already",
            "give one row per client and window",
            line=lines[row],
            field="client",
            value=names[row],
        )


_READERS: dict[tuple[str, ...], Callable[[TraceFile, Iterator[Block]], Record]] = {
    AZURE: _azure,
    MOONCAKE: _mooncake,
    PLAIN: _plain,
    COUNTS: _counts,
    RATES: _rates,
}
