"""The framing of all protocols between the driver's processes: one JSON object a line, UTF-8, of bounded length.

Standard library only, though pydantic and msgspec would do more: the replica's helper (`replica/control.py`) runs
within the replica's own process, whose environment has neither, and must speak exactly what the driver speaks. The
meaning of fields is checked one floor up, by each protocol.

Decided here, since JSON leaves it open (RFC 8259, 4, 6 and 8.1):

- NaN and infinities are refused in both directions: they are no JSON, and no number here may be one.
- An object that names a key twice is refused: readers disagree about which one counts.
- A line is UTF-8, without the UTF-16 and UTF-32 that `json.loads` would detect.
- A line that the other side did not end before it closed is dropped: it may be half a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from restore_driver.errors import DriverError, Reason

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """Return one message as a line, ASCII only, with its line end.

    Raises:
        ValueError, TypeError: it holds NaN, an infinity, or a value that JSON cannot express.
    """
    return json.dumps(message, allow_nan=False).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """Return the object of one line (with or without its line end).

    Raises:
        DriverError: REQUEST_INVALID for a line that is no JSON object by the rules above.
    """
    try:
        message = json.loads(
            line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise DriverError(Reason.REQUEST_INVALID, f"a line is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise DriverError(Reason.REQUEST_INVALID, "a line is not a JSON object")
    return message


class Decoder:
    """Splits a stream of bytes into messages, however the stream arrives in pieces."""

    def __init__(self, longest_bytes: int) -> None:
        """`longest_bytes`: bytes of a line without its end; a longer one is refused."""
        self._longest_bytes = longest_bytes
        self._buffered = bytearray()
        self._searched = 0
        """Bytes at the beginning of the buffer that hold no line end."""

    def feed(self, data: bytes) -> None:
        """Append bytes that have arrived."""
        self._buffered += data

    def next_message(self) -> Message | None:
        """Return the next message; None until more bytes are fed.

        Raises:
            DriverError: REQUEST_INVALID for a line that is too long or no JSON object. What follows such a line has
                no meaning.
        """
        end = self._buffered.find(b"\n", self._searched)
        if (len(self._buffered) if end < 0 else end) > self._longest_bytes:
            raise DriverError(Reason.REQUEST_INVALID, f"a line is longer than {self._longest_bytes:,} bytes")
        if end < 0:
            self._searched = len(self._buffered)
            return None
        line = bytes(self._buffered[:end])
        del self._buffered[: end + 1]
        self._searched = 0
        return decode(line)


def _unique(pairs: list[tuple[str, Any]]) -> Message:
    message = dict(pairs)
    if len(message) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return message


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
