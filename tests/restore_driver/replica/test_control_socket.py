"""Clients of a replica's socket: answered in parallel, whatever becomes of the others."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from restore_driver.replica.control import ReplicaControl
from tests.restore_driver.replica.stand_ins import LONG_S, Range, Step, control
from tests.restore_driver.waiting import eventually

__all__ = ["control"]


def test_clients_are_served_though_accept_and_thread_start_fail_once(
    control: ReplicaControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is left (EMFILE), then no thread: the connection waits, and is answered."""
    accept, start, refusals = socket.socket.accept, threading.Thread.start, ["accept", "thread"]

    def accept_later(listener: socket.socket) -> Any:
        if refusals and refusals[0] == "accept":
            refusals.pop(0)
            raise OSError(24, "Too many open files")
        return accept(listener)

    def start_later(thread: threading.Thread) -> None:
        if thread.name == "replica-client" and refusals and refusals[0] == "thread":
            refusals.pop(0)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    monkeypatch.setattr(threading.Thread, "start", start_later)
    control.start()
    assert received(ask(control, {"op": "state"}))["result"]["quiet"] is False
    assert received(ask(control, {"op": "state"}))["result"]["quiet"] is False
    assert refusals == []


def test_the_state_is_answered_while_a_quiesce_waits(control: ReplicaControl) -> None:
    """Each connection has a thread of its own."""
    control.start()
    step = Step(control)
    assert step.runs.wait(LONG_S)
    with ask(control, {"op": "quiesce", "deadline_s": LONG_S}) as quiescing:
        eventually(lambda: received(ask(control, {"op": "state"}))["result"]["quiet"], "the quiesce")
        assert received(ask(control, {"op": "state"})) == {"result": {"quiet": True, "mapped": [True] * 3}}
        step.end()
        assert received(quiescing)["result"]["released_bytes"] == 3 * Range.size_bytes


@pytest.mark.parametrize(
    ("message", "reason", "detail"),
    [
        ({"op": "dance"}, "RequestInvalid", "there is no op 'dance'"),
        ({"op": "state", "version": 2}, "RequestInvalid", "version 2 of the replica helper's protocol is not known"),
        ({"op": "state", "version": None}, "RequestInvalid", "version None of the replica helper's protocol is not"),
        ({"op": "state", "version": True}, "RequestInvalid", "version True of the replica helper's protocol is not"),
        ({"op": "quiesce", "deadline_s": "soon"}, "QuiesceFailed", "ValueError: could not convert string to float"),
        ([], "RequestInvalid", "a line is not a JSON object"),
    ],
)
def test_invalid_requests_are_refused_with_reason_and_detail(
    message: Any, reason: str, detail: str, control: ReplicaControl
) -> None:
    control.start()
    error = received(ask(control, message))["error"]

    assert (set(error), error["reason"]) == ({"reason", "detail", "hint"}, reason)
    assert error["detail"].startswith(detail)


def test_a_quiesce_that_is_late_is_answered_with_the_deadline(control: ReplicaControl) -> None:
    control.start()
    step = Step(control)
    assert step.runs.wait(LONG_S)
    error = received(ask(control, {"op": "quiesce", "deadline_s": 0.05}))["error"]
    step.end()

    assert (error["reason"], error["detail"]) == ("DeadlineExceeded", "a step did not end in time")


def ask(control: ReplicaControl, message: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(LONG_S)
    connection.connect(control.path)
    sent = {"version": 1, **message} if isinstance(message, dict) else message
    connection.sendall((json.dumps(sent) + "\n").encode())
    return connection


def received(connection: socket.socket) -> dict[str, Any]:
    with connection, connection.makefile("rb") as lines:
        answer: dict[str, Any] = json.loads(lines.readline())
    return answer
