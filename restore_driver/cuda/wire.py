"""The CUDA helper's protocol: one JSON object a line (`host/jsonlines.py`). A request has an `id`, its answer the same.

    {"id": 1, "do": "state", "pid": 7}                          -> {"id": 1, "took_s": 0.001, "state": "running"}
    {"id": 2, "do": "lock", "pid": 7, "timeout_s": 2.0}         -> {"id": 2, "took_s": 0.004, "state": "locked"}
    {"id": 3, "do": "restore", "pid": 7, "device_map": null}    -> {"id": 3, "took_s": 0.230, "state": "locked"}
    {"id": 4, "do": "memory"}                                   -> {"id": 4, "took_s": 0.002, "memory": {...}}
    an error                                -> {"id": 5, "took_s": 0.0, "error": {"reason", "detail", "hint"}}

An error of a process without CUDA state has `"not_cuda": true` beside it. Requests and the helper's first line, whose
id is 0, carry the protocol's `version`; either side refuses another one by its name. The first line says that the
helper is up, or has the error that keeps it from that.
"""

from __future__ import annotations

from restore_driver.cuda.ports import NotCuda
from restore_driver.cuda.readings import GpuMemory, MemoryReading
from restore_driver.errors import DriverError
from restore_driver.host.jsonlines import Message
from restore_driver.host.messages import error_message, load_error, require_version

HELLO = 0
"""The id of the helper's first line."""
LONGEST_LINE_BYTES = 1 << 20
PROTOCOL_VERSION = 1


def check_version(message: Message) -> None:
    """Refuse a message of another version.

    Raises:
        DriverError: REQUEST_INVALID naming both versions.
    """
    require_version(message, PROTOCOL_VERSION, "CUDA helper's")


def answer_of(error: DriverError) -> Message:
    """Return the fields that answer a request with an error."""
    return {**error_message(error), **({"not_cuda": True} if isinstance(error, NotCuda) else {})}


def raise_answered(message: Message) -> None:
    """Raise the error of an answer, if it is one.

    Raises:
        DriverError: as the helper sent it; `NotCuda` for a process without CUDA state.
    """
    if "error" in message:
        error = load_error(message["error"])
        raise NotCuda(error.reason, error.detail, error.hint) if message.get("not_cuda") else error


def pack_memory(reading: MemoryReading) -> Message:
    """Return a reading as a message."""
    return {
        "gpus": [[gpu.uuid, gpu.total_bytes, gpu.free_bytes] for gpu in reading.gpus],
        "processes": [[pid, used_bytes] for pid, used_bytes in reading.processes.items()],
    }


def unpack_memory(packed: Message) -> MemoryReading:
    """Return the reading of a message."""
    return MemoryReading(tuple(GpuMemory(*gpu) for gpu in packed["gpus"]), dict(packed["processes"]))
