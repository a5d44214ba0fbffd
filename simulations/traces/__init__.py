"""Traces: what was recorded of real load, and the requests that a replay makes of it.

Begin with `opening.py` (`open_trace`, the entry point) and `stream.py` (what a caller gets). A TRACE is
found by `catalogue.py`, read by `tables.py` and `columns.py`, understood by `records.py` and
`tokens.py`. The three kinds become requests in `from_arrivals.py`, `from_counts.py` and
`from_rates.py`, with `copies.py` (scale), `intervals.py` (laws of renewal) and `kernels.py` (the
compiled loops). `docs/traces.md` describes the formats for users.
"""

from simulations.traces.catalogue import trace_names
from simulations.traces.opening import open_trace
from simulations.traces.stream import ArrivalStream, Chunk, TraceInfo, TrueRate

__all__ = ["ArrivalStream", "Chunk", "TraceInfo", "TrueRate", "open_trace", "trace_names"]
