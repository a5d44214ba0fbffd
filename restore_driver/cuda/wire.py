"""The helper's language: one JSON object a line. A request has an `id`, its answer the same.

    {"id": 1, "do": "state", "pid": 7}                          -> {"id": 1, "took_s": 0.001, "state": "running"}
    {"id": 2, "do": "lock", "pid": 7, "timeout_s": 2.0}         -> {"id": 2, "took_s": 0.004, "state": "locked"}
    {"id": 3, "do": "restore", "pid": 7, "device_map": null}    -> {"id": 3, "took_s": 0.230, "state": "locked"}
    {"id": 4, "do": "memory"}                                   -> {"id": 4, "took_s": 0.002, "memory": {...}}
    a refusal or failure                                        -> {"id": 5, "took_s": 0.0, "error": {...}}

The first line is the helper's own, with id 0: it is up, or says why not.
"""

from __future__ import annotations

import json
from typing import Any

from restore_driver.cuda.ports import NotCuda
from restore_driver.cuda.readings import CardMemory, MemoryReading
from restore_driver.errors import DriverError, Reason

Message = dict[str, Any]

HELLO = 0
"""The id of the helper's first line."""


def to_line(message: Message) -> bytes:
    """One line."""
    return json.dumps(message).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """The object of a line."""
    message: Message = json.loads(line)
    return message


def pack_error(error: DriverError) -> Message:
    """An error with all that makes it up."""
    return {
        "reason": error.reason.value,
        "detail": error.detail,
        "hint": error.hint,
        "not_cuda": isinstance(error, NotCuda),
    }


def unpack_error(packed: Message) -> DriverError:
    """The same error on this side."""
    kind = NotCuda if packed["not_cuda"] else DriverError
    return kind(Reason(packed["reason"]), packed["detail"], packed["hint"])


def pack_memory(reading: MemoryReading) -> Message:
    """A reading of the cards."""
    return {
        "cards": [[card.uuid, card.total_bytes, card.free_bytes] for card in reading.cards],
        "processes": [[pid, used_bytes] for pid, used_bytes in reading.processes.items()],
    }


def unpack_memory(packed: Message) -> MemoryReading:
    """The same reading on this side."""
    return MemoryReading(tuple(CardMemory(*card) for card in packed["cards"]), dict(packed["processes"]))
