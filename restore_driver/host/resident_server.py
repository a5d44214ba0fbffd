"""The accept loop of every resident process: a bounded number of connections, each in a thread, whatever runs out.

A burst of clients waits in the listener's backlog and is served as threads become free. When the process has no
descriptor left (EMFILE) or the machine no thread, the loop pauses and tries again: it neither ends nor spins, and an
accepted connection is kept meanwhile. Standard library only, like `jsonlines`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

MOST_CONNECTIONS = 256
"""Served at once: many more than a node has replicas, each of which has one attempt at a time, for minutes."""
_PAUSE_S = 0.1
"""Between two tries when something has run out."""
_THREAD_PATIENCE_S = 5.0
"""How long an accepted connection waits for its thread before it is closed."""

Converse = Callable[[socket.socket], None]
"""Serve one connection to its end; it is closed afterwards, and whatever this raises ends no other connection."""


class ResidentServer:
    """Accepts connections on one listener until it is stopped."""

    def __init__(
        self, listener: socket.socket, converse: Converse, name: str, most_connections: int = MOST_CONNECTIONS
    ) -> None:
        """`name` is that of the threads. The server owns the listener and closes it at its end."""
        self._listener, self._converse, self._name = listener, converse, name
        self._free = threading.Semaphore(most_connections)
        self._guard = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._stopping = threading.Event()

    def run(self, *, drain: bool) -> None:
        """Serve until `stop`; with `drain`, return once each connection that has sent its request was served.

        Clients that have connected and sent nothing are disconnected then.
        """
        with self._listener:
            while not self._stopping.is_set():
                if self._free.acquire(timeout=_PAUSE_S):
                    self._accept_one()
        if drain:
            self._drain()

    def stop(self) -> None:
        """Accept no new connections; may be called from a signal handler or another thread, and repeatedly."""
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def connections(self) -> int:
        """Return how many connections are open."""
        with self._guard:
            return len(self._open)

    def _accept_one(self) -> None:
        """Accept a connection and start its thread; a slot was taken, which its end or a failure frees."""
        try:
            connection, _ = self._listener.accept()
        except OSError:  # EMFILE, ENFILE, ENOMEM, ECONNABORTED; EINVAL once stopped
            self._free.release()
            self._stopping.wait(_PAUSE_S)
            return
        if not self._start(connection):
            connection.close()
            self._free.release()

    def _start(self, connection: socket.socket) -> bool:
        ends_s = time.monotonic() + _THREAD_PATIENCE_S
        while True:
            thread = threading.Thread(target=self._serve, args=(connection,), name=self._name, daemon=True)
            with self._guard:
                self._open[thread] = connection
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # "can't start new thread"
                with self._guard:
                    del self._open[thread]
                if time.monotonic() >= ends_s or self._stopping.wait(_PAUSE_S):
                    return False
            else:
                return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):  # the client is gone, or too slow
                self._converse(connection)
        finally:
            with self._guard:
                del self._open[threading.current_thread()]
            self._free.release()

    def _drain(self) -> None:
        """Let reads return the end of the stream after what has arrived, and wait for all threads."""
        with self._guard:
            left = dict(self._open)
        for connection in left.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        for thread in left:
            thread.join()
