"""Messages over a connected socket: sent, and received within a deadline, with a descriptor beside one (SCM_RIGHTS)."""

from __future__ import annotations

import array
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from restore_driver.host.jsonlines import Decoder, Message, encode

_CHUNK_BYTES = 1 << 16


class MessageStream:
    """One side of a connection; not safe for several threads."""

    def __init__(self, connection: socket.socket, longest_bytes: int) -> None:
        """`longest_bytes` limits the lines that are received. The caller closes the connection."""
        self.connection = connection
        self._decoder = Decoder(longest_bytes)

    def send(self, message: Mapping[str, Any], fd: int | None = None) -> None:
        """Send one message, and a descriptor with it; the caller closes the descriptor.

        Raises:
            OSError: the other side has closed, or the socket's timeout passed.
            ValueError, TypeError: it cannot be encoded (`jsonlines.encode`); nothing was sent.
        """
        line = encode(message)
        if fd is None:
            self.connection.sendall(line)
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        sent = self.connection.sendmsg([line], rights)
        self.connection.sendall(line[sent:])

    def receive(self, deadline_s: float | None = None, *, first_byte_s: float | None = None) -> Message | None:
        """Return the next message; None once the other side has closed. Descriptors that come with it are dropped.

        Args:
            deadline_s: seconds for the whole message; None for no limit. A peer that sends byte by byte has no more
                time than one that sends nothing.
            first_byte_s: seconds for its first byte, `math.inf` for no limit; `deadline_s` begins with that byte then.

        Raises:
            TimeoutError: the message was not complete in time.
            DriverError: REQUEST_INVALID for a line that is no message or too long.
            OSError: any other error of recv(2).
        """
        message = self._decoder.next_message()
        ends_s = _ends(deadline_s if first_byte_s is None else first_byte_s)
        while message is None:
            self.connection.settimeout(_left_s(ends_s))
            data = self.connection.recv(_CHUNK_BYTES)
            if not data:
                return None
            if first_byte_s is not None:
                ends_s, first_byte_s = _ends(deadline_s), None
            self._decoder.feed(data)
            message = self._decoder.next_message()
        self.connection.settimeout(deadline_s)
        return message

    def receive_with_descriptor(self, deadline_s: float) -> tuple[Message | None, int | None]:
        """Return the next message and the first descriptor that came with it, which the caller closes.

        Raises:
            TimeoutError, DriverError, OSError: as `receive`; no descriptor stays open then.
        """
        fds: list[int] = []
        with ExitStack() as unwanted:
            message, ends_s = self._decoder.next_message(), _ends(deadline_s)
            while message is None:
                self.connection.settimeout(_left_s(ends_s))
                data, ancillary, _, _ = self.connection.recvmsg(
                    _CHUNK_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
                for fd in _descriptors(ancillary):
                    unwanted.callback(os.close, fd)
                    fds.append(fd)
                if not data:
                    return None, None
                self._decoder.feed(data)
                message = self._decoder.next_message()
            unwanted.pop_all()
        for fd in fds[1:]:
            os.close(fd)
        return message, fds[0] if fds else None


def _ends(limit_s: float | None) -> float | None:
    return None if limit_s is None or limit_s == math.inf else time.monotonic() + limit_s


def _left_s(ends_s: float | None) -> float | None:
    if ends_s is None:
        return None
    left_s = ends_s - time.monotonic()
    if left_s <= 0.0:
        raise TimeoutError("timed out")
    return left_s


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return all of them: the kernel rounds the space for one up, and one that is not closed would leak."""
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return found.tolist()
