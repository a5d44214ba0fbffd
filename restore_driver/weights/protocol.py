"""What travels between the holder and those who ask it: a JSON object a line, descriptors beside one (SCM_RIGHTS).

    {"do": "preload", "model", "files", "total_bytes", "offsets_bytes"}
                                       -> {"held_bytes", "was_held", "read_s", "pin_s"}
    {"do": "load", "model"[, "gpu"]}   -> {"token"} at once; the copy to the card goes on by itself
    {"do": "take", "token"}            -> {"size_bytes"} and one descriptor of device memory
    {"do": "wait", "token"}            -> {"bytes", "allocate_s", "copy_s", ...} when every byte is on the card
    {"do": "done", "token"}            -> {} the taker has mapped it: the holder lets go of its own reference
    {"do": "release", "token"}         -> {} nobody will take it
    {"do": "drop", "model"}, {"do": "status"}, {"do": "measure"}

Anything may answer {"error", "reason", "mend"} instead. `take`, `wait` and `done` are open to whoever knows the token,
which can't be guessed; the rest is for root and for the holder's own user, in the holder's own pid namespace.
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any

from restore_driver.errors import DriverError, Reason

FOR_TAKERS = frozenset({"take", "wait", "done"})
LONGEST_LINE_BYTES = 16 << 20


def send(connection: socket.socket, message: dict[str, Any], fd: int | None = None) -> None:
    """Sends a line, with a descriptor if there is one."""
    line = (json.dumps(message) + "\n").encode()
    if fd is None:
        connection.sendall(line)
        return
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sent = connection.sendmsg([line], rights)
    connection.sendall(line[sent:])


def receive(connection: socket.socket, buffered: bytearray) -> tuple[dict[str, Any] | None, int | None]:
    """One line and the descriptor that came with it; (None, None) when the other side has closed.

    Raises:
        DriverError: REQUEST_INVALID for a line that is no JSON object or too long.
    """
    fd: int | None = None
    while b"\n" not in buffered:
        if len(buffered) > LONGEST_LINE_BYTES:
            raise DriverError(Reason.REQUEST_INVALID, f"a line is longer than {LONGEST_LINE_BYTES:,} bytes")
        more, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        for _level, _kind, content in ancillary:
            fd = array.array("i", content[:4])[0]
        if not more:
            return None, None
        buffered += more
    line, _, rest = bytes(buffered).partition(b"\n")
    buffered[:] = rest
    try:
        message = json.loads(line)
    except ValueError as error:
        raise DriverError(Reason.REQUEST_INVALID, f"a line is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise DriverError(Reason.REQUEST_INVALID, "a line is no JSON object")
    return message, fd
