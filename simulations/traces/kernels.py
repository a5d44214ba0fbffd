"""The compiled inner loops: intervals of renewal processes, copies of a record, tokens of requests.

Everything that touches single requests is here, in one module, because Numba's disk cache looks only
at the file that a function stands in. All functions release the GIL, take arrays and write arrays.

Randomness. A source (one client of one copy) owns a SplitMix64 generator (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014): a 64-bit state and an odd increment,
both seeded apart for each source, so that no source disturbs another. What belongs to single
requests (tokens, whether a request is kept) is a hash of a key and the request's number instead, so
that it does not matter in which pieces the requests are made.

Order. A piece of a stream is made source by source and put into order by sorting packed keys:
nanoseconds from the piece's start in the high bits, the client (or the record's row) in the low.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])

GAMMA = 0
HYPEREXPONENTIAL = 1

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
UNIT_53 = 1.0 / (1 << 53)
UNIT_32 = 1.0 / (1 << 32)


def kernel(function: Function) -> Function:
    """Compile, keeping the Python signature for the type checker."""
    return cast("Function", numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@kernel
def mixed(value: int) -> int:
    """Scramble a 64-bit integer by SplitMix64's finaliser, a bijection whose values look random."""
    z = np.uint64(value)
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))  # type: ignore[return-value]  # a uint64, which numba knows


@kernel
def positive_uniform(bits: int) -> float:
    """Uniform in (0, 1], so that its logarithm is finite."""
    return (float(np.uint64(bits) >> np.uint64(11)) + 1.0) * UNIT_53


@kernel
def draw_interval(rng, source, law, a, b):  # type: ignore[no-untyped-def]  # numba infers these
    """One interval of mean 1; advances `rng[source]` (state, increment).

    GAMMA: `a` is the shape k = 1/cv^2. Marsaglia and Tsang, "A simple method for generating gamma
    variables" (ACM TOMS 2000), with their boost by U^(1/k) below k = 1; normals by Marsaglia's polar
    method. HYPEREXPONENTIAL: phase rates `a` and `b`, the first taken with probability a/2.
    """
    state = rng[source, 0]
    step = rng[source, 1]
    if law == HYPEREXPONENTIAL:
        state += step
        phase = positive_uniform(mixed(state))
        state += step
        rng[source, 0] = state
        return -math.log(positive_uniform(mixed(state))) / (a if phase <= 0.5 * a else b)
    shape = a if a >= 1.0 else a + 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        while True:
            state += step
            bits = mixed(state)
            x = float(bits >> np.uint64(32)) * (2.0 * UNIT_32) - 1.0
            y = float(bits & np.uint64(0xFFFFFFFF)) * (2.0 * UNIT_32) - 1.0
            square = x * x + y * y
            if 0.0 < square < 1.0:
                break
        normal = x * math.sqrt(-2.0 * math.log(square) / square)
        v = 1.0 + c * normal
        if v <= 0.0:
            continue
        v = v * v * v
        state += step
        u = positive_uniform(mixed(state))
        if u < 1.0 - 0.0331 * normal**4 or math.log(u) < 0.5 * normal * normal + d * (1.0 - v + math.log(v)):
            break
    value = d * v / a
    if a < 1.0:
        state += step
        value *= math.exp(math.log(positive_uniform(mixed(state))) / a)
    rng[source, 0] = state
    return value


@kernel
def draw_renewals(  # type: ignore[no-untyped-def]  # numba infers these
    keys, filled, first_source, length_ns, rate_rps, law, a, b, remaining, rng, client, client_bits, thin
):
    """Arrivals of all sources from `first_source` on within one piece of `length_ns`.

    `remaining` (sources,) is the operational time (rate x seconds) to each source's next arrival; it
    is carried from piece to piece. Kept arrivals are packed into `keys` from index `filled` on.
    Returns (filled, source): `source` is the number of sources when all is done, else the source at
    which `keys` ran full, with that source untouched: give more room and call again from there.
    """
    sources = rate_rps.size
    length_s = length_ns * 1e-9
    for s in range(first_source, sources):
        span = rate_rps[s] * length_s
        position = remaining[s]
        if position >= span:
            remaining[s] = position - span
            continue
        before = filled
        state_before = rng[s, 0]
        ns_per_unit = 1e9 / rate_rps[s]
        while position < span:
            kept = True
            if thin < 1.0:
                rng[s, 0] += rng[s, 1]
                kept = positive_uniform(mixed(rng[s, 0])) <= thin
            if kept:
                if filled == keys.size:
                    rng[s, 0] = state_before
                    return before, s
                at_ns = min(np.int64(position * ns_per_unit), length_ns - 1)
                keys[filled] = (at_ns << client_bits) | client[s]
                filled += 1
            position += draw_interval(rng, s, law[s], a[s], b[s])
        remaining[s] = position - span
    return filled, sources


@kernel
def tokens_by_client(  # type: ignore[no-untyped-def]  # numba infers these
    keys, client_bits, start_ns, first_number, key, prompt_table, output_table, times_s, prompts, outputs
):
    """Write times and tokens of sorted `keys` (n,); request i has the number `first_number` + i.

    Tables are (clients, quantiles + 2): the quantiles at their midpoints, the first and the last
    twice. The inverse CDF is linear between midpoints and flat beyond the outer ones.
    """
    mask = (np.int64(1) << client_bits) - 1
    quantiles = prompt_table.shape[1] - 2
    for i in range(keys.size):
        row = keys[i] & mask
        times_s[i] = (start_ns + (keys[i] >> client_bits)) / 1e9
        bits = mixed(key + np.uint64(first_number + i) * GOLDEN)
        place = float(bits >> np.uint64(32)) * UNIT_32 * quantiles + 0.5
        j = int(place)
        low = prompt_table[row, j]
        prompts[i] = int(low + (place - j) * (prompt_table[row, j + 1] - low) + 0.5)
        place = float(bits & np.uint64(0xFFFFFFFF)) * UNIT_32 * quantiles + 0.5
        j = int(place)
        low = output_table[row, j]
        outputs[i] = int(low + (place - j) * (output_table[row, j + 1] - low) + 0.5)


@kernel
def tokens_by_row(  # type: ignore[no-untyped-def]  # numba infers these
    keys, row_bits, start_ns, first_number, key, row_prompts, row_outputs, times_s, prompts, outputs
):
    """Do the same for requests that take both lengths from one row of a record.

    The row stands in the key's low bits; with `row_bits` 0 it is drawn, each row equally likely.
    """
    mask = (np.int64(1) << row_bits) - 1
    rows = row_prompts.size
    for i in range(keys.size):
        times_s[i] = (start_ns + (keys[i] >> row_bits)) / 1e9
        if row_bits > 0:
            row = keys[i] & mask
        else:
            bits = mixed(key + np.uint64(first_number + i) * GOLDEN)
            row = np.int64(float(bits >> np.uint64(11)) * UNIT_53 * rows)
        prompts[i] = row_prompts[row]
        outputs[i] = row_outputs[row]


@kernel
def gather_copies(  # type: ignore[no-untyped-def]  # numba infers these
    keys, filled, first_copy, start_ns, end_ns, span_ns, times_ns, shifts_ns, row_bits, copy_keys, thin
):
    """Arrivals of shifted, wrapped copies of a record within [start_ns, end_ns), kept with `thin`.

    Copy c has the record's row r at (times_ns[r] + shifts_ns[c]) mod span_ns. Returns (filled, copy)
    as `draw_renewals` does.
    """
    copies = shifts_ns.size
    for c in range(first_copy, copies):
        before = filled
        for wrap in range(2):
            # The piece in the record's own time: as it stands, and one span later.
            offset = shifts_ns[c] - wrap * span_ns
            row = np.searchsorted(times_ns, start_ns - offset)
            while row < times_ns.size and times_ns[row] + offset < end_ns:
                if thin >= 1.0 or positive_uniform(mixed(copy_keys[c] + np.uint64(row) * GOLDEN)) <= thin:
                    if filled == keys.size:
                        return before, c
                    keys[filled] = ((times_ns[row] + offset - start_ns) << row_bits) | row
                    filled += 1
                row += 1
    return filled, copies


@kernel
def uniform_keys(keys, first_number, key, length_ns):  # type: ignore[no-untyped-def]  # numba infers these
    """Fill `keys` with independent uniform times in [0, length_ns), in ns."""
    for i in range(keys.size):
        bits = mixed(key + np.uint64(first_number + i) * GOLDEN)
        keys[i] = np.int64(float(bits >> np.uint64(11)) * UNIT_53 * length_ns)
