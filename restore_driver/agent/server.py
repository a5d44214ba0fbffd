"""The agent's end of the socket: a thread a connection, an attempt a thread.

Only root, or whoever the agent runs as, is answered: the kernel says who connected, and the socket lies in a
directory that nobody else may enter. An end by SIGTERM waits for the attempts at work; after an end by SIGKILL the
next start takes back what they left (`Driver.recover`).
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from restore_driver.agent.protocol import lines, send
from restore_driver.driver import Driver
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.host.unix_sockets import is_root_or_us, listen
from restore_driver.validation_errors import refused_request
from restore_driver.wire.requests import AnyRequest

_REQUEST: TypeAdapter[AnyRequest] = TypeAdapter(AnyRequest)
_PATIENCE_S = 30.0
"""A caller that has connected and says nothing is let go after this."""


class Agent:
    """Serves one driver on one socket."""

    def __init__(self, driver: Driver, path: Path) -> None:
        self.driver, self.path = driver, path
        self._listener: socket.socket | None = None
        self._attempts: set[threading.Thread] = set()
        self._at_work: set[int] = set()
        self._stopping = threading.Event()

    def listen(self) -> None:
        """Binds the socket; a stale one of a dead agent is replaced, a live agent's is not.

        Raises:
            DriverError: BUSY when an agent answers there; NOT_TRUSTED for its directory; REQUEST_INVALID for what is no
                socket, and would be lost.
        """
        require_trusted(self.path.parent, owner=os.geteuid())
        if os.path.lexists(self.path) and not stat.S_ISSOCK(os.lstat(self.path).st_mode):
            raise DriverError(Reason.REQUEST_INVALID, f"{self.path} is there and is no socket", "give another --socket")
        if self._answers():
            raise DriverError(Reason.BUSY, f"an agent serves {self.path} already", "stop it, or give another --socket")
        self._listener = listen(str(self.path), 16)

    def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answers until `stop`, then waits for the attempts at work."""
        assert self._listener is not None
        ready()
        while not self._stopping.is_set():
            with suppress(OSError):
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._converse, args=(connection,), name="attempt")
                self._attempts = {other for other in self._attempts if other.is_alive()} | {thread}
                thread.start()
        for thread in self._attempts:
            thread.join()
        self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        """No new connections; called from a signal handler or another thread."""
        self._stopping.set()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT end the agent in order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.path))
            except OSError:
                return False
        return True

    def _converse(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError, TimeoutError):
            connection.settimeout(_PATIENCE_S)
            try:
                if not is_root_or_us(connection):
                    raise DriverError(Reason.NOT_TRUSTED, "only root may ask this agent")
                message = next(lines(connection), None)
                if message is not None:
                    self._answer(connection, message)
            except DriverError as error:
                send(connection, {"error": {"reason": error.reason, "detail": error.detail, "hint": error.hint}})

    def _answer(self, connection: socket.socket, message: dict[str, Any]) -> None:
        if message.get("do") == "status":
            send(connection, {"result": self._status()})
            return
        try:
            request = _REQUEST.validate_python(message, strict=False)
        except ValidationError as error:
            raise refused_request(error) from error

        def observe(event: str, phase: str) -> None:
            with suppress(OSError):  # a caller that went away doesn't end the attempt
                send(connection, {"event": event, "phase": phase})

        self._at_work.add(threading.get_ident())
        try:
            result = self.driver.carry_out(request, observe)
        finally:
            self._at_work.discard(threading.get_ident())
        send(connection, {"result": result.model_dump(mode="json")})

    def _status(self) -> dict[str, Any]:
        tools = self.driver.tools
        return {
            "pid": os.getpid(),
            "criu": None if tools.criu is None else ".".join(map(str, tools.criu.version)),
            "cuda": tools.cuda is not None,
            "cuda_missing": tools.cuda_missing or None,
            "gpus": [gpu.model_dump(mode="json") for gpu in tools.gpus],
            "attempts": len(self._at_work),
        }
