"""The holder's protocol: one JSON object a line (`host/jsonlines.py`), descriptors beside one (SCM_RIGHTS).

    {"do": "preload", "model", "files", "total_bytes", "offsets_bytes"}
                                       -> {"held_bytes", "was_held", "read_s", "pin_s"}
    {"do": "load", "model"[, "gpu"]}   -> {"token", "gpu"} at once; the copy to the GPU runs on its own
    {"do": "take", "token"}            -> {"size_bytes"} and one descriptor of device memory
    {"do": "wait", "token"}            -> {"bytes", "allocate_s", "copy_s", ...} when every byte is on the GPU
    {"do": "done", "token"}            -> {} the replica has mapped it: the holder releases its own reference
    {"do": "release", "token"}         -> {} no replica will take it
    {"do": "drop", "model"}, {"do": "status"}, {"do": "measure"}

Each request carries the protocol's `version`; another one is refused by its name. Each may be answered by
{"error": {"reason", "detail", "hint"}} instead. `take`, `wait` and `done` are open to every client that knows the
token, which cannot be guessed; the rest is for root and for the holder's own user, in the holder's own pid and user
namespace. `take` and `wait` last as long as the copy does, or until the client disconnects; the client owns the
deadline.
"""

from __future__ import annotations

from typing import TypeGuard

from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Message
from restore_driver.host.messages import require_version

PROTOCOL_VERSION = 1
FOR_REPLICAS = frozenset({"take", "wait", "done"})
LONGEST_LINE_BYTES = 16 << 20
"""A preload names every tensor of a model: some hundred bytes each, tens of thousands of them."""
_SHOWN = 100


def check_version(message: Message) -> None:
    """Refuse a request of another version.

    Raises:
        DriverError: REQUEST_INVALID naming both versions.
    """
    require_version(message, PROTOCOL_VERSION, "weights holder's")


def text(message: Message, name: str) -> str:
    """Return a field that is text.

    Raises:
        DriverError: REQUEST_INVALID naming field and value.
    """
    value = message.get(name)
    if not isinstance(value, str):
        raise _invalid(message, name, "not text")
    return value


def texts(message: Message, name: str) -> list[str]:
    """Return a field that is a list of paths, not an empty one.

    Raises:
        DriverError: REQUEST_INVALID naming field and value.
    """
    value = message.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise _invalid(message, name, "not a list of paths")
    return value


def size(message: Message, name: str) -> int:
    """Return a field that is a number of bytes, not 0.

    Raises:
        DriverError: REQUEST_INVALID naming field and value.
    """
    value = message.get(name)
    if not _is_size(value) or not value:
        raise _invalid(message, name, "not a size")
    return value


def sizes(message: Message, name: str) -> dict[str, int]:
    """Return a field that has numbers of bytes by name.

    Raises:
        DriverError: REQUEST_INVALID naming field and value.
    """
    value = message.get(name)
    if not isinstance(value, dict) or not all(_is_size(each) for each in value.values()):
        raise _invalid(message, name, "not a table of sizes")
    return value


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _invalid(message: Message, name: str, what: str) -> DriverError:
    value = f"{message.get(name)!r:.{_SHOWN}}"
    return DriverError(Reason.REQUEST_INVALID, f"{message.get('do', 'a model')}: {name} is {value}, {what}")
