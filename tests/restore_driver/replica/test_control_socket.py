"""Who asks a replica over its socket: answered meanwhile, and whatever becomes of others."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from restore_driver.replica.control import ReplicaControl
from tests.restore_driver.replica.stand_ins import LONG_S, Range, Step, control
from tests.restore_driver.waiting import eventually

__all__ = ["control"]


def test_who_can_not_be_served_now_does_not_end_the_control(
    control: ReplicaControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a connection that can't be accepted (no descriptors are left), nor a thread that can't be had."""
    accept, start, refusals = socket.socket.accept, threading.Thread.start, ["accept", "thread"]

    def accept_later(listener: socket.socket) -> Any:
        if refusals and refusals[0] == "accept":
            refusals.pop(0)
            raise OSError(24, "Too many open files")
        return accept(listener)

    def start_later(thread: threading.Thread) -> None:
        if thread.name == "replica-asker" and refusals and refusals[0] == "thread":
            refusals.pop(0)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    monkeypatch.setattr(threading.Thread, "start", start_later)
    control.start()
    with ask(control, {"op": "state"}) as refused, suppress(ConnectionResetError):
        assert refused.recv(1) == b""

    assert told(ask(control, {"op": "state"}))["ok"] is True
    assert refusals == []


def test_the_state_is_told_while_a_quiesce_waits(control: ReplicaControl) -> None:
    """A thread a connection; and what is no request is answered, too."""
    control.start()
    step = Step(control)
    assert step.runs.wait(LONG_S)
    with ask(control, {"op": "quiesce", "deadline_s": LONG_S}) as quiescing:
        eventually(lambda: told(ask(control, {"op": "state"}))["quiet"], "the quiesce at work")
        assert told(ask(control, {"op": "state"})) == {"ok": True, "quiet": True, "mapped": [True] * 3}
        assert told(ask(control, {"op": "dance"}))["detail"] == "ValueError: there is no op 'dance'"
        assert told(ask(control, []))["ok"] is False
        step.end()
        assert told(quiescing)["released_bytes"] == 3 * Range.size_bytes


def ask(control: ReplicaControl, message: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(LONG_S)
    connection.connect(control.path)
    connection.sendall((json.dumps(message) + "\n").encode())
    return connection


def told(connection: socket.socket) -> dict[str, Any]:
    with connection, connection.makefile("rb") as lines:
        answer: dict[str, Any] = json.loads(lines.readline())
    return answer
