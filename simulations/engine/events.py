"""The rules of the game, event by event: completion, dispatch, arrival.

At equal times a completion comes first (it makes room), then a dispatch (what waited goes before
what comes), then an arrival. Between equal completions the lower slot goes first.

Dispatch is strictly first in, first out. The head of the queue goes to the slot with the least
`prefill_until_s + router_weight_s * running` among those that may take it. A slot may take nothing
while it runs `max_num_seqs`, is off or drains; while its prefill backlog is longer than
`max_prefill_backlog_s` it sits in the tree `blocked` until the moment when it is not. If the head's
kv does not fit the best slot, that slot refuses everything until its next completion and the next
slot is tried: a later, smaller request does not overtake. A request too large for the limit runs on
a replica that is empty.

`prefill_until_s` of a replica long idle lies in the past, so equally busy replicas take turns, and
`router_weight_s` says how many seconds of that one running sequence outweighs.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.arrays import FloatArray
from simulations.engine.batch import catch_up, next_completion_s, pop, push, set_pace
from simulations.engine.jit import entry, kernel
from simulations.engine.layout import (
    ARRIVED,
    DRAINING,
    FIRST_TOKEN,
    KV,
    OFF,
    OUTPUT,
    OUTPUT_TOKENS,
    PROMPT,
    SERVING,
    VIRTUAL_FINISH,
    State,
)
from simulations.engine.tally import count_arrival, count_busy, count_completion, count_dispatch, sample_until
from simulations.engine.tournament import NEVER, set_key, winner


@kernel
def place(state: State, index: int, now_s: float) -> None:
    """Put a slot where it belongs: free to take a request, blocked until a time, or neither."""
    slot = state.slots[index]
    model = state.model[0]
    routing, blocked = NEVER, NEVER
    if slot.mode == SERVING and slot.refuses == 0 and slot.running < model.max_num_seqs:
        free_s = slot.prefill_until_s - model.max_prefill_backlog_s
        if free_s > now_s:
            blocked = free_s
        else:
            routing = slot.prefill_until_s + model.router_weight_s * slot.running
    set_key(state.routing, index, routing)
    set_key(state.blocked, index, blocked)


@kernel
def next_dispatch_s(state: State) -> float:
    """When the head of the queue can next be tried; NEVER if only a completion can help."""
    clock = state.clock[0]
    if clock.queued == 0:
        return NEVER
    if state.routing[1] < NEVER:
        return float(clock.now_s)
    return float(max(state.blocked[1], clock.now_s))


@kernel
def admit(  # noqa: PLR0913, PLR0917 - a request; numba passes no records by value
    state: State, index: int, now_s: float, arrived_s: float, prompt: float, output: float
) -> None:
    """Give the request to the slot: its prefill queues there, its decode joins the batch."""
    slot = state.slots[index]
    model = state.model[0]
    heap = state.batches[index]
    start_s = max(now_s, slot.prefill_until_s)
    first_s = start_s + model.prefill_base_s + prompt * model.prefill_s_per_token
    if slot.running == 0:
        count_busy(state, now_s, 1)
    catch_up(slot, now_s)
    kv = prompt + 0.5 * output
    push(heap, slot.running, slot.virtual_tokens + max(output - 1.0, 0.0), first_s, kv, output)
    slot.running += 1
    slot.kv_tokens += kv
    slot.prefill_until_s = first_s
    slot.resumed_s = first_s
    set_pace(slot, model)
    set_key(state.completions, index, next_completion_s(slot, heap, now_s))
    place(state, index, now_s)
    state.clock[0].running += 1
    count_dispatch(state, arrived_s, start_s - arrived_s, first_s - arrived_s)


@kernel
def dispatch(state: State, now_s: float) -> None:
    """Try the head of the queue on the best slot: it goes there, or the slot refuses from now on."""
    while state.blocked[1] <= now_s:
        place(state, winner(state.blocked), now_s)
    if state.routing[1] == NEVER:
        return
    index = winner(state.routing)
    slot = state.slots[index]
    clock = state.clock[0]
    head = state.queue[clock.queue_head]
    prompt, output = head[PROMPT], head[OUTPUT_TOKENS]
    if slot.running > 0 and slot.kv_tokens + prompt + 0.5 * output > state.model[0].kv_tokens_limit:
        slot.refuses = 1
        place(state, index, now_s)
        return
    clock.queue_head = (clock.queue_head + 1) & (state.queue.shape[0] - 1)
    clock.queued -= 1
    clock.queued_prompt_tokens -= prompt
    admit(state, index, now_s, head[ARRIVED], prompt, output)


@kernel
def complete(state: State, now_s: float) -> None:
    """End the first of all running requests; its slot may take requests again."""
    index = winner(state.completions)
    slot = state.slots[index]
    heap = state.batches[index]
    finish, first_s = heap[0, VIRTUAL_FINISH], heap[0, FIRST_TOKEN]
    kv, output = heap[0, KV], heap[0, OUTPUT]
    if finish > slot.virtual_tokens:
        # Exactly the mark, not what the clock's rounding makes of it.
        slot.virtual_tokens = finish
        slot.resumed_s = now_s
    pop(heap, slot.running)
    slot.running -= 1
    slot.kv_tokens -= kv
    slot.refuses = 0
    set_pace(slot, state.model[0])
    state.clock[0].running -= 1
    count_completion(state, now_s, now_s - first_s, output)
    if slot.running == 0:
        count_busy(state, now_s, -1)
        if slot.mode == DRAINING:
            slot.mode = OFF
            clock = state.clock[0]
            state.drained[clock.drained_rows, 0] = index
            state.drained[clock.drained_rows, 1] = now_s
            clock.drained_rows += 1
    set_key(state.completions, index, next_completion_s(slot, heap, now_s))
    place(state, index, now_s)


@kernel
def arrive(state: State, at_s: float, prompt: float, output: float) -> None:
    """Append the request to the central queue, which has space."""
    clock = state.clock[0]
    tail = state.queue[(clock.queue_head + clock.queued) & (state.queue.shape[0] - 1)]
    tail[ARRIVED] = at_s
    tail[PROMPT] = prompt
    tail[OUTPUT_TOKENS] = output
    clock.queued += 1
    clock.queued_prompt_tokens += prompt
    count_arrival(state, at_s, prompt)


def _make_run(digest: int) -> Callable[..., int]:
    def run(  # noqa: PLR0913, PLR0917 - numba knows positional arguments only
        state: State,
        times_s: FloatArray,
        prompts: FloatArray,
        outputs: FloatArray,
        begin: int,
        until_s: float,
        sampling: bool,  # noqa: FBT001 - the same
        more: bool,  # noqa: FBT001 - the same
    ) -> int:
        """Let everything before `until_s` happen; return the first arrival not yet taken.

        Stops early, in a state from which another call goes on exactly, when the queue is full
        (the return is less than the number of arrivals) or, if `more`, after the last arrival.
        """
        _ = digest  # the cache key, see `jit.py`
        clock = state.clock[0]
        index = begin
        count = times_s.shape[0]
        while not (more and index == count):
            arrival_s = times_s[index] if index < count else NEVER
            dispatch_s = next_dispatch_s(state)
            completion_s = state.completions[1]
            next_s = min(arrival_s, dispatch_s, completion_s)
            if next_s >= until_s:
                break
            if sampling:
                sample_until(state, next_s)
            clock.now_s = next_s
            if completion_s <= next_s:
                complete(state, next_s)
            elif dispatch_s <= next_s:
                dispatch(state, next_s)
            else:
                if clock.queued == state.queue.shape[0]:
                    break
                arrive(state, next_s, prompts[index], outputs[index])
                index += 1
        if sampling and not more and index == count:
            sample_until(state, until_s)
        return index

    return run


def _make_place_slot(digest: int) -> Callable[[State, int, float], None]:
    def place_slot(state: State, index: int, now_s: float) -> None:
        """`place`, after Python has changed a slot's mode."""
        _ = digest
        place(state, index, now_s)

    return place_slot


run = entry(_make_run)
"""The loop that Python enters; releases the GIL."""
place_slot = entry(_make_place_slot)
