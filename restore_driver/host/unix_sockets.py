"""Unix sockets that only their owner and root may connect to, who it is that connected, and what a line is."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from restore_driver.errors import DriverError, Reason

_PAUSE_S = 0.1
"""After a connection could not be accepted (no descriptors are left, say)."""


def listen(path: str, backlog: int) -> socket.socket:
    """Listens at a path, of mode 0600 from its first moment on; what was there goes.

    Raises:
        OSError: as the kernel says.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(backlog)
    return listener


def accept_one(listener: socket.socket, converse: Callable[[socket.socket], None], name: str) -> None:
    """Waits for a connection and serves it in a thread of its own.

    Whatever there is too little of at that moment, the listener outlives it: the connection is hung up on.
    """
    try:
        connection, _ = listener.accept()
    except OSError:
        time.sleep(_PAUSE_S)
        return
    try:
        threading.Thread(target=converse, args=(connection,), name=name, daemon=True).start()
    except RuntimeError:  # no more threads can be had
        connection.close()


def is_root_or_us(connection: socket.socket) -> bool:
    """Whether root, or a process of our own user, connected."""
    return peer(connection)[1] in (0, os.geteuid())


def peer(connection: socket.socket) -> tuple[int, int]:
    """PID, as this pid namespace numbers it, and user id of the process that connected, as the kernel vouches for them
    (SO_PEERCRED, unix(7))."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user_id, _ = struct.unpack("3i", packed)
    return int(pid), int(user_id)


def json_object(line: bytes) -> dict[str, Any]:
    """What a line says.

    Raises:
        DriverError: REQUEST_INVALID for a line that is no JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DriverError(Reason.REQUEST_INVALID, f"a line is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise DriverError(Reason.REQUEST_INVALID, "a line is no JSON object")
    return message
