"""The agent: one driver behind one socket, each request in a thread of its own.

Only root, or the user that the agent runs as, is answered: the kernel vouches for the peer, and no other user may enter
the socket's directory. SIGTERM lets running attempts end; after SIGKILL the next agent rolls back what they left
(`Driver.recover`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from restore_driver.agent.limits import LONGEST_LINE_BYTES
from restore_driver.agent.protocol import StatusRequest
from restore_driver.attempt.phases import Observer
from restore_driver.attempt.recovery import Recovered
from restore_driver.driver import Driver
from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Message
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import dump_error, error_message
from restore_driver.host.resident_server import ResidentServer
from restore_driver.host.trusted import require_trusted
from restore_driver.host.unix_sockets import is_root_or_us, is_served, listen, peer
from restore_driver.logs import SILENT, Logger
from restore_driver.validation_errors import refused_request
from restore_driver.wire.requests import AnyRequest
from restore_driver.wire.result import Result
from restore_driver.wire.version import API_VERSION

_REQUEST: TypeAdapter[AnyRequest] = TypeAdapter(AnyRequest)
_PATIENCE_S = 30.0
"""For a client's whole request, however slowly it is sent, and for a client to take each answer."""


class Agent:
    """Serves one driver on one socket."""

    def __init__(self, driver: Driver, path: Path, log: Logger = SILENT) -> None:
        self.driver, self.path, self._log = driver, path, log
        self._server: ResidentServer | None = None
        self._running: set[int] = set()
        """Threads with an attempt."""

    def listen(self) -> None:
        """Bind the socket; a stale one of a dead agent is replaced, a live agent's is not.

        Raises:
            DriverError: BUSY when an agent listens there; NOT_TRUSTED for its directory; REQUEST_INVALID for a file
                that is no socket, and would be lost.
        """
        require_trusted(self.path.parent, owner=os.geteuid())
        if os.path.lexists(self.path) and not stat.S_ISSOCK(os.lstat(self.path).st_mode):
            raise DriverError(Reason.REQUEST_INVALID, f"{self.path} is there and is no socket", "give another --socket")
        if is_served(self.path):
            raise DriverError(Reason.BUSY, f"an agent serves {self.path} already", "stop it, or give another --socket")
        self._server = ResidentServer(listen(self.path), self._converse, "attempt")

    def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answer requests until `stop`, then wait for the running attempts; call `listen` before."""
        assert self._server is not None  # noqa: S101 - `listen` comes first, which mypy cannot see
        began_s = time.monotonic()
        self._log.info(
            "agent_started", socket=str(self.path), criu=self._criu(), cuda=self.driver.tools.cuda is not None
        )
        ready()
        self._server.run(drain=True)
        self.path.unlink(missing_ok=True)
        self._log.info("agent_stopped", took_s=time.monotonic() - began_s)

    def stop(self) -> None:
        """Accept no new connections; may be called from a signal handler or another thread."""
        if self._server is not None:
            self._server.stop()

    def stop_on_signals(self) -> None:
        """Stop on SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def _converse(self, connection: socket.socket) -> None:
        stream = MessageStream(connection, LONGEST_LINE_BYTES)
        try:
            _refuse_others(connection)
            message = stream.receive(_PATIENCE_S)
            if message is not None:
                self._answer(stream, message)
        except TimeoutError:
            self._refused(connection, DriverError(Reason.DEADLINE_EXCEEDED, "the client sent no whole request in time"))
        except DriverError as error:
            self._refused(connection, error)
            stream.send(error_message(error))

    def _answer(self, stream: MessageStream, message: Message) -> None:
        request = _parse(message)
        if isinstance(request, StatusRequest):
            stream.send({"result": self._status()})
            return

        client = _Client(stream)
        self._running.add(threading.get_ident())
        try:
            answer = self._carry_out(request, client.observe)
        finally:
            self._running.discard(threading.get_ident())
        client.send(answer)

    def _carry_out(self, request: AnyRequest, observe: Observer) -> Message:
        """Carry out an attempt, log one line about it, and return its result; a defect of the driver is INTERNAL."""
        about: dict[str, Any] = {"do": request.do, **_subject(request)}
        began_s = time.monotonic()
        try:
            result = self.driver.carry_out(request, observe)
        except Exception as error:  # noqa: BLE001 - a defect of a step must not go unanswered
            known = error if isinstance(error, DriverError) else DriverError(Reason.INTERNAL, repr(error))
            took_s = time.monotonic() - began_s
            self._log.error("attempt", **about, outcome="failed", **dump_error(known), took_s=took_s)
            return error_message(known)
        write = self._log.info if result.ok else self._log.warning
        write("attempt", **about, **_outcome(result))
        return {"result": json.loads(result.model_dump_json())}

    def _refused(self, connection: socket.socket, error: DriverError) -> None:
        pid, user_id = peer(connection)
        self._log.warning("request_refused", **dump_error(error), client_pid=pid, client_user_id=user_id)

    def _criu(self) -> str | None:
        criu = self.driver.tools.criu
        return None if criu is None else ".".join(map(str, criu.version))

    def _status(self) -> dict[str, Any]:
        tools = self.driver.tools
        return {
            "api_version": API_VERSION,
            "pid": os.getpid(),
            "criu": self._criu(),
            "cuda": tools.cuda is not None,
            "cuda_missing": tools.cuda_missing or None,
            "gpus": [gpu.model_dump(mode="json") for gpu in tools.gpus],
            "attempts": len(self._running),
        }


def log_recovered(log: Logger, recovered: Iterable[Recovered]) -> None:
    """Log one line for each attempt that was rolled back because its driver had died."""
    for each in recovered:
        write = log.warning if each.errors else log.info
        undone, errors = list(each.undone), list(each.errors)
        write(
            "attempt_rolled_back", attempt=each.attempt, reason=Reason.DRIVER_DIED.value, undone=undone, errors=errors
        )


def _refuse_others(connection: socket.socket) -> None:
    if not is_root_or_us(connection):
        raise DriverError(Reason.NOT_TRUSTED, "only root may use this agent")


class _Client:
    """A client of a running attempt: it may disconnect, or read nothing, and the attempt goes on."""

    def __init__(self, stream: MessageStream) -> None:
        self._stream, self._gone = stream, False

    def observe(self, event: str, phase: str) -> None:
        self.send({"event": event, "phase": phase})

    def send(self, message: Message) -> None:
        """Send one message; after a failure no more are tried, since half a line may be under way."""
        if self._gone:
            return
        try:
            self._stream.send(message)
        except OSError:
            self._gone = True


def _parse(message: Message) -> AnyRequest | StatusRequest:
    """Validate a message.

    Raises:
        DriverError: REQUEST_INVALID naming field, rule and value.
    """
    try:
        if message.get("do") == "status":
            return StatusRequest.model_validate(message)
        return _REQUEST.validate_python(message, strict=False)
    except ValidationError as error:
        raise refused_request(error) from error


def _subject(request: AnyRequest) -> dict[str, Any]:
    """Return the fields of a request that name its replica, placeholder and artifact."""
    names = {"pid": "replica_pid", "artifact": "artifact", "placeholder_pid": "placeholder_pid", "pod_uid": "pod_uid"}
    found = {shown: getattr(request, name, None) for name, shown in names.items()}
    return {shown: str(value) if isinstance(value, Path) else value for shown, value in found.items() if value}


def _outcome(result: Result) -> dict[str, Any]:
    return {
        "sequence": result.sequence,
        "outcome": result.outcome,
        "reason": None if result.reason is None else result.reason.value,
        "phase": result.phase,
        "detail": result.detail,
        "hint": result.hint or None,
        "took_s": round(result.total_s, 6),
        "phases_s": {phase.phase: round(phase.took_s, 6) for phase in result.phases},
        "undone": list(result.undone) or None,
        "undo_errors": list(result.undo_errors) or None,
        "warnings": list(result.warnings) or None,
    }
