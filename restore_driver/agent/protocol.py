"""What travels over the agent's socket: one JSON object a line, UTF-8, at most `LONGEST_LINE_BYTES` long.

caller: one request (`requests.AnyRequest`, told apart by `do`), or {"do": "status"}
agent:  {"event": "begin" | "end" | "undo", "phase": ...}   as the attempt goes
        {"result": {...}}                                    once, last; then the agent closes
        {"error": {"reason", "detail", "hint"}}              instead, for what is no request
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host.unix_sockets import json_object

LONGEST_LINE_BYTES = 1 << 20


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends one line."""
    connection.sendall((json.dumps(message) + "\n").encode())


def lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Messages until the other side closes.

    Raises:
        DriverError: REQUEST_INVALID for a line that is too long or no JSON object.
    """
    buffered = b""
    while True:
        line, end, rest = buffered.partition(b"\n")
        if end:
            buffered = rest
            yield json_object(line)
            continue
        if len(buffered) > LONGEST_LINE_BYTES:
            raise DriverError(Reason.REQUEST_INVALID, f"a line is longer than {LONGEST_LINE_BYTES:,} bytes")
        more = connection.recv(1 << 16)
        if not more:
            return
        buffered += more


def connect(path: Path, deadline_s: float) -> socket.socket:
    """A connection to the socket at `path`.

    Raises:
        OSError: as the kernel says.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(deadline_s)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection
