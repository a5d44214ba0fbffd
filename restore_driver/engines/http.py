"""Make HTTP requests to a replica within its network namespace: no proxies, no redirects, a limit on the body.

A stream of bytes that never ends, or comes one by one, ends at the deadline like one that never begins: then the
connection is torn down under the thread that reads it.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from restore_driver.deadline import Deadline
from restore_driver.engines.hooks import HookDetails, Note, ProcessRoot, ResumeState
from restore_driver.errors import DriverError, Reason
from restore_driver.host.netns import in_network_namespace
from restore_driver.host.trusted import require_trusted
from restore_driver.wire.replica_spec import HttpCall, HttpEngine

LONGEST_ANSWER_BYTES = 16 << 20
PAUSE_S = 0.02
"""Between two polls."""
_CHUNK_BYTES = 1 << 16
_SHOWN = 200


@dataclass(frozen=True)
class HttpResponse:
    """An HTTP response with its whole body."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON; ValueError when it is not JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text, undecodable bytes replaced."""
        return self.body.decode(errors="replace")

    @property
    def shown(self) -> str:
        """The beginning of the body, for an error message."""
        return self.body[:_SHOWN].decode(errors="replace").strip()


def call(request: HttpCall, process: ProcessRoot, deadline_s: float, reason: Reason, hint: str = "") -> HttpResponse:
    """Make one request and require its status.

    Raises:
        DriverError: `reason` with URL, status and the beginning of the body; DEADLINE_EXCEEDED.
    """
    answer = exchange(request, process, deadline_s, reason)
    if answer.status != request.status:
        raise DriverError(
            reason,
            f"{request.method} {request.url} answered {answer.status}, not {request.status}: {answer.shown}",
            hint,
        )
    return answer


def exchange(request: HttpCall, process: ProcessRoot, deadline_s: float, reason: Reason) -> HttpResponse:
    """Make one request; return the response whatever its status.

    Raises:
        DriverError: `reason` when there is no HTTP server, or its answer is too long; DEADLINE_EXCEEDED; NOT_TRUSTED or
            REQUEST_INVALID for the API key's file.
    """
    sent = _headers(request)
    deadline = Deadline.after(f"{request.method} {request.url}", deadline_s)
    held: list[socket.socket] = []
    try:
        return in_network_namespace(
            process.host_pid, lambda: _talk(request, sent, held, deadline, reason), deadline.left_s()
        )
    except DriverError as error:
        if error.reason is not Reason.DEADLINE_EXCEEDED:
            raise
        for connected in held:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        raise _too_late(request, deadline_s) from None
    except TimeoutError:
        raise _too_late(request, deadline_s) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = str(error) or type(error).__name__
        raise DriverError(reason, f"{request.method} {request.url} failed: {said}") from error


@dataclass(frozen=True)
class HttpHooks:
    """HTTP endpoints of the replica's own as hooks."""

    spec: HttpEngine

    def quiesce(self, process: ProcessRoot, deadline_s: float, note: Note) -> HookDetails:
        """Poll `idle` until it answers its status, then call each hook in order."""
        deadline = Deadline.after("the replica's HTTP hooks for its rest", deadline_s)
        looks = 0
        if self.spec.idle is not None:
            looks = 1
            while (
                exchange(self.spec.idle, process, deadline.left_s(), Reason.QUIESCE_FAILED).status
                != self.spec.idle.status
            ):
                looks += 1
                time.sleep(min(PAUSE_S, deadline.left_s()))
        for hook in self.spec.quiesce:
            call(hook, process, deadline.left_s(), Reason.QUIESCE_FAILED)
        return {"calls": len(self.spec.quiesce), "looks_for_idle": looks}

    def resume(self, process: ProcessRoot, deadline_s: float, state: ResumeState, note: Note) -> HookDetails:
        """Call each hook in order."""
        deadline = Deadline.after("the replica's HTTP hooks for its waking", deadline_s)
        for hook in self.spec.resume:
            call(hook, process, deadline.left_s(), Reason.RESUME_FAILED)
        return {"calls": len(self.spec.resume)}


def _talk(
    request: HttpCall, headers: Mapping[str, str], held: list[socket.socket], deadline: Deadline, reason: Reason
) -> HttpResponse:
    """Exchange one request; `held` receives the socket, so that the caller can shut it down at its deadline."""
    url = urlsplit(request.url)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=deadline.left_s())
    try:
        connection.connect()
        held.append(connection.sock)
        connection.request(request.method, path, _body(request), headers)
        with connection.getresponse() as response:
            return HttpResponse(response.status, _read(response, held[0], request.url, deadline, reason))
    finally:
        connection.close()


def _read(
    response: http.client.HTTPResponse, connected: socket.socket, url: str, deadline: Deadline, reason: Reason
) -> bytes:
    found = bytearray()
    while len(found) <= LONGEST_ANSWER_BYTES:
        connected.settimeout(deadline.left_s())
        more = response.read1(_CHUNK_BYTES)
        if not more:
            if response.length:
                raise http.client.IncompleteRead(bytes(found), response.length)
            return bytes(found)
        found += more
        if response.isclosed():
            return bytes(found)
    raise DriverError(reason, f"{url} answered more than {LONGEST_ANSWER_BYTES:,} bytes")


def _too_late(request: HttpCall, deadline_s: float) -> DriverError:
    return DriverError(
        Reason.DEADLINE_EXCEEDED, f"{request.method} {request.url} gave no whole answer within {deadline_s:.3g} s"
    )


def _headers(request: HttpCall) -> Mapping[str, str]:
    headers = {"connection": "close"}
    if request.body is not None and not isinstance(request.body, str):
        headers["content-type"] = "application/json"
    headers |= {name.lower(): value for name, value in request.headers.items()}
    if request.api_key_file is not None:
        headers["authorization"] = f"Bearer {_read_key(Path(request.api_key_file))}"
    return headers


def _read_key(path: Path) -> str:
    require_trusted(path)
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DriverError(Reason.REQUEST_INVALID, f"API key file {path} cannot be read", "give a text file") from error


def _body(request: HttpCall) -> bytes | None:
    if request.body is None:
        return None
    return (request.body if isinstance(request.body, str) else json.dumps(request.body)).encode()
