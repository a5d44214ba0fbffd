"""One replica's batch in virtual time: who finishes next, without stepping through iterations.

`virtual_tokens` V counts the tokens that every running sequence has been given so far; it advances
at `1 / iteration_s` while the batch decodes and stands still while a prefill runs. A request joins
with the finish mark V + (output - 1), since its first token comes from its prefill. The marks never
change, so the batch is a binary heap by mark and an event is needed only where the batch changes:
two a request. `resumed_s` is the moment from which V runs on (the end of the last prefill, or the
last change).

A request of one token finishes with its own prefill while others may still wait for theirs: its
mark is reached already, so it ends at its first-token time and the heap breaks ties by that time.
The story goes on in `events.py`.
"""

from __future__ import annotations

from typing import Any

from policies.arrays import FloatArray
from simulations.engine.jit import kernel
from simulations.engine.layout import FIRST_TOKEN, KV, OUTPUT, VIRTUAL_FINISH
from simulations.engine.tournament import NEVER


@kernel
def catch_up(slot: Any, now_s: float) -> None:
    """Bring V up to `now_s`, before the batch changes."""
    if now_s > slot.resumed_s:
        if slot.running > 0:
            slot.virtual_tokens += (now_s - slot.resumed_s) / slot.iteration_s
        slot.resumed_s = now_s


@kernel
def set_pace(slot: Any, model: Any) -> None:
    """Set the iteration time of the batch as it is now; an empty replica starts its count afresh."""
    if slot.running == 0:
        slot.virtual_tokens = 0.0
        slot.kv_tokens = 0.0
    slot.iteration_s = (
        model.iteration_base_s
        + model.iteration_per_sequence_s * slot.running
        + model.iteration_per_kv_token_s * slot.kv_tokens
    )


@kernel
def next_completion_s(slot: Any, heap: FloatArray, now_s: float) -> float:
    """When the first of the batch finishes if nothing else happens; NEVER for an empty one."""
    if slot.running == 0:
        return NEVER
    ahead = heap[0, VIRTUAL_FINISH] - slot.virtual_tokens
    if ahead > 0.0:
        return float(slot.resumed_s + ahead * slot.iteration_s)
    return float(max(heap[0, FIRST_TOKEN], now_s))


@kernel
def _before(finish: float, first_s: float, heap: FloatArray, at: int) -> bool:
    other = heap[at, VIRTUAL_FINISH]
    return bool(finish < other or (finish == other and first_s < heap[at, FIRST_TOKEN]))


@kernel
def push(  # noqa: PLR0913, PLR0917 - the columns of an entry; numba passes no records by value
    heap: FloatArray, size: int, finish: float, first_s: float, kv: float, output: float
) -> None:
    """Add an entry to a heap of `size` entries."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if not _before(finish, first_s, heap, parent):
            break
        for column in range(4):
            heap[at, column] = heap[parent, column]
        at = parent
    heap[at, VIRTUAL_FINISH] = finish
    heap[at, FIRST_TOKEN] = first_s
    heap[at, KV] = kv
    heap[at, OUTPUT] = output


@kernel
def pop(heap: FloatArray, size: int) -> None:
    """Remove the first of `size` entries: the last one sinks from the top to its place."""
    last = size - 1
    finish, first_s = heap[last, VIRTUAL_FINISH], heap[last, FIRST_TOKEN]
    at = 0
    child = 1
    while child < last:
        right = child + 1
        if right < last and _before(heap[right, VIRTUAL_FINISH], heap[right, FIRST_TOKEN], heap, child):
            child = right
        if not _before(heap[child, VIRTUAL_FINISH], heap[child, FIRST_TOKEN], heap, last):
            break
        for column in range(4):
            heap[at, column] = heap[child, column]
        at = child
        child = 2 * at + 1
    kv, output = heap[last, KV], heap[last, OUTPUT]
    heap[at, VIRTUAL_FINISH] = finish
    heap[at, FIRST_TOKEN] = first_s
    heap[at, KV] = kv
    heap[at, OUTPUT] = output
