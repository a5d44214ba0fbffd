"""`open_trace`: from a name and a few numbers to a stream of requests."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from autoscaler.input_error import InputError
from simulations.traces.catalogue import Located, locate, token_file
from simulations.traces.copies import Draw
from simulations.traces.from_arrivals import RecordedArrivals
from simulations.traces.from_counts import CountedArrivals
from simulations.traces.from_rates import RenewalArrivals
from simulations.traces.intervals import FAMILIES, GAMMA_LIMIT
from simulations.traces.records import NS, ArrivalRecord, CountRecord, RateRecord, Record, read_record
from simulations.traces.stream import ArrivalStream, TraceInfo
from simulations.traces.tokens import QuantileTables, read_quantiles

DEFAULT_TOKENS = "azure-conv"
MOST_COPIES = 10_000

Source = RecordedArrivals | CountedArrivals | RenewalArrivals


def open_trace(  # noqa: PLR0913 - all but the name have defaults or are given by keyword
    name_or_path: str | Path,
    *,
    seed: int,
    scale: int = 1,
    thin: float = 1.0,
    start_s: float = 0.0,
    duration_s: float | None = None,
    family: str = "auto",
    shift_s: float = 600.0,
    tokens_from: str | Path = DEFAULT_TOKENS,
) -> ArrivalStream:
    """Return requests of a trace, from `start_s` for `duration_s` (to its end if None); t = 0 is `start_s`.

    The same arguments give the same requests. Two targets that replay one trace need different seeds,
    or they will get the same arrivals.

    `scale` superposes that many copies, each but the first shifted by a seeded time in [0, shift_s)
    and wrapped around the piece; time is never compressed. For rates and counts each copy draws
    arrivals of its own. `thin` keeps each request with that probability. `family` (auto, gamma,
    hyperexponential) is the interval law of rates; `tokens_from` the arrivals trace whose rows give
    counts their token lengths; each is ignored for the other kinds.

    Raises InputError, whose text is one sentence, for anything that cannot be used.
    """
    located = locate(name_or_path)
    _check(located, seed, scale, thin, family, shift_s)
    record = _record(located)
    start_ns, span_ns = _piece(located, record, start_s, duration_s)
    draw = Draw(seed, located.name, start_ns, span_ns, scale, thin, shift_s)
    source, rule = _source(located, record, draw, family, tokens_from)
    info = TraceInfo(
        name=located.name,
        kind=_KINDS[type(record)],
        licence=located.licence,
        citation=located.citation,
        span_s=span_ns / NS,
        requests=round(source.expected),
        rule=rule + _superposed(draw),
    )
    return ArrivalStream(source, info)


_KINDS: dict[type[Any], str] = {ArrivalRecord: "arrivals", CountRecord: "counts", RateRecord: "rates"}


def _source(located: Located, record: Record, draw: Draw, family: str, tokens_from: str | Path) -> tuple[Source, str]:
    """Return the source of requests, and its rule without the full stop."""
    if isinstance(record, ArrivalRecord):
        spread = f", spread uniformly over the {record.tick_ns / NS:g} s ticks of its clock" if record.tick_ns else ""
        return RecordedArrivals(record, draw), f"Recorded requests at their recorded times{spread}"
    if isinstance(record, CountRecord):
        tokens = _tokens_of(tokens_from)
        rule = (
            "Each recorded minute's count at independent uniform times within the minute, with token lengths "
            f"drawn from the rows of {tokens_from}"
        )
        return CountedArrivals(record, tokens, draw), rule
    rule = (
        f"Renewal processes with each client's recorded rate and cv by {record.window_s:g} s window, "
        f"{_FAMILY_RULES[family]}, started in equilibrium and carried over window borders by rank, with prompt "
        "and output lengths drawn independently from each client's recorded quantiles"
    )
    return RenewalArrivals(record, _quantiles(located, record), draw, family), rule


_FAMILY_RULES = {
    "auto": f"Gamma intervals up to cv {GAMMA_LIMIT:g} and balanced hyperexponential ones above",
    "gamma": "Gamma intervals",
    "hyperexponential": "balanced hyperexponential intervals above cv 1 and Gamma ones up to it",
}


def _superposed(draw: Draw) -> str:
    text = f"; {draw.scale} copies superposed, shifted by up to {draw.shift_s:g} s" if draw.scale > 1 else ""
    text += f"; each request kept with probability {draw.thin:g}" if draw.thin < 1 else ""
    return text + "."


def _tokens_of(tokens_from: str | Path) -> ArrivalRecord:
    located = locate(tokens_from)
    record = _record(located)
    if not isinstance(record, ArrivalRecord):
        problem = f"this is a trace of {_KINDS[type(record)]}, which has no single requests to take tokens from"
        raise located.file.refusal(problem, f"name a trace of arrivals such as {DEFAULT_TOKENS}")
    return record


def _record(located: Located) -> Record:
    return _shipped_record(located.name) if located.shipped else read_record(located.file)


def _quantiles(located: Located, record: RateRecord) -> QuantileTables:
    return _shipped_quantiles(located.name) if located.shipped else read_quantiles(token_file(located), record)


@lru_cache(maxsize=8)
def _shipped_record(name: str) -> Record:
    """Read a shipped record once: it does not change while the simulator runs, and every row of a table opens it."""
    record = read_record(locate(name).file)
    for field in record.__slots__:
        value = getattr(record, field)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return record


@lru_cache(maxsize=8)
def _shipped_quantiles(name: str) -> QuantileTables:
    record = _shipped_record(name)
    if not isinstance(record, RateRecord):
        raise TypeError(f"{name} is no record of rates, so that it has no quantiles")
    return read_quantiles(token_file(locate(name)), record)


def _piece(located: Located, record: Record, start_s: float, duration_s: float | None) -> tuple[int, int]:
    """Return the piece's start and length in ns; it must lie within the record."""
    span_s = record.span_ns / NS
    if not 0 <= start_s < span_s:
        raise located.file.refusal(
            "the trace has no such moment", f"give a start from 0 up to {span_s:g} s", field="start_s", value=start_s
        )
    rest_s = span_s - start_s
    # Half a nanosecond of rounding must not turn "to the end" into "beyond the end".
    if duration_s is not None and not 1e-9 <= duration_s <= rest_s + 1e-6:
        hint = f"give a duration above 0 and up to {rest_s:g} s"
        raise located.file.refusal("the trace has no such piece", hint, field="duration_s", value=duration_s)
    start_ns = round(start_s * NS)
    wanted_ns = record.span_ns if duration_s is None else round(duration_s * NS)
    return start_ns, min(wanted_ns, record.span_ns - start_ns)


def _check(  # noqa: PLR0913, PLR0917 - the settings of `open_trace`
    located: Located, seed: int, scale: int, thin: float, family: str, shift_s: float
) -> None:
    wrong: tuple[str, object, str] | None = None
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        wrong = "seed", seed, "give a whole number from 0 up"
    elif isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale <= MOST_COPIES:
        wrong = "scale", scale, f"give a whole number from 1 to {MOST_COPIES}"
    elif not 0 < thin <= 1:
        wrong = "thin", thin, "give a probability above 0 and up to 1"
    elif family not in FAMILIES:
        wrong = "family", family, f"give one of {', '.join(FAMILIES)}"
    elif not 0 <= shift_s < float("inf"):
        wrong = "shift_s", shift_s, "give a number of seconds from 0 up"
    if wrong is not None:
        field, value, hint = wrong
        raise InputError(located.file.shown, None, field, value, "this value cannot be used", hint)
