"""What travels between the holder and those who ask it: a JSON object a line, descriptors beside one (SCM_RIGHTS).

    {"do": "preload", "model", "files", "total_bytes", "offsets_bytes"}
                                       -> {"held_bytes", "was_held", "read_s", "pin_s"}
    {"do": "load", "model"[, "gpu"]}   -> {"token", "gpu"} at once; the copy to the card goes on by itself
    {"do": "take", "token"}            -> {"size_bytes"} and one descriptor of device memory
    {"do": "wait", "token"}            -> {"bytes", "allocate_s", "copy_s", ...} when every byte is on the card
    {"do": "done", "token"}            -> {} the taker has mapped it: the holder lets go of its own reference
    {"do": "release", "token"}         -> {} nobody will take it
    {"do": "drop", "model"}, {"do": "status"}, {"do": "measure"}

Anything may answer {"error", "reason", "hint"} instead. `take`, `wait` and `done` are open to whoever knows the token,
which can't be guessed; the rest is for root and for the holder's own user, in the holder's own pid and user namespace.
`take` and `wait` last as long as the copy does, or until whoever asked hangs up: his is the deadline.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
from contextlib import ExitStack
from typing import Any, TypeGuard

from restore_driver.errors import DriverError, Reason
from restore_driver.host.unix_sockets import json_object

FOR_TAKERS = frozenset({"take", "wait", "done"})
LONGEST_LINE_BYTES = 16 << 20
_SHOWN = 100


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
    """One line and the descriptor that came with it, of several the first; (None, None) when the other side has closed.

    Raises:
        DriverError: REQUEST_INVALID for a line that is no JSON object or too long.
    """
    fd: int | None = None
    with ExitStack() as unwanted:
        while b"\n" not in buffered:
            if len(buffered) > LONGEST_LINE_BYTES:
                raise DriverError(Reason.REQUEST_INVALID, f"a line is longer than {LONGEST_LINE_BYTES:,} bytes")
            more, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            for came in _descriptors(ancillary):
                if fd is None:
                    fd = came
                    unwanted.callback(os.close, came)
                else:
                    os.close(came)
            if not more:
                return None, None
            buffered += more
        line, _, rest = bytes(buffered).partition(b"\n")
        buffered[:] = rest
        message = json_object(line)
        unwanted.pop_all()
    return message, fd


def hung_up(connection: socket.socket) -> bool:
    """Whether the other side has closed the whole connection, whatever it sent before."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP comes unasked
    return bool(poll.poll(0))


def text(message: dict[str, Any], name: str) -> str:
    """A field that is text.

    Raises:
        DriverError: REQUEST_INVALID naming field and value, as below.
    """
    value = message.get(name)
    if not isinstance(value, str):
        raise _invalid(message, name, "no text")
    return value


def texts(message: dict[str, Any], name: str) -> list[str]:
    """A field that is a list of paths, not an empty one."""
    value = message.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise _invalid(message, name, "no list of paths")
    return value


def size(message: dict[str, Any], name: str) -> int:
    """A field that is a number of bytes, not 0."""
    value = message.get(name)
    if not _is_size(value) or not value:
        raise _invalid(message, name, "no size")
    return value


def sizes(message: dict[str, Any], name: str) -> dict[str, int]:
    """A field that has numbers of bytes by name."""
    value = message.get(name)
    if not isinstance(value, dict) or not all(_is_size(each) for each in value.values()):
        raise _invalid(message, name, "no table of sizes")
    return value


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _invalid(message: dict[str, Any], name: str, what: str) -> DriverError:
    value = f"{message.get(name)!r:.{_SHOWN}}"
    return DriverError(Reason.REQUEST_INVALID, f"{message.get('do', 'a model')}: {name} is {value}, {what}")


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """All of them: the kernel rounds the room for one up, and one that is not closed stays open."""
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return found.tolist()
