"""The log of a real holder, and the share of its connections that clients with a token alone may take."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import error_message
from restore_driver.weights import client as clients
from restore_driver.weights import holder as holders
from restore_driver.weights.client import HolderClient
from restore_driver.weights.device import HostDevice
from tests.restore_driver.waiting import eventually
from tests.restore_driver.weights.test_holder import GPU_BYTES, Begin, Weights, ask, begin, close_clients, taken
from tests.restore_driver.weights.test_holder_faults import serving

__all__ = ["begin", "close_clients"]


def test_one_line_for_start_preload_copy_refusal_and_end(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The format comes from the environment; each line has its durations, and a refusal its reason code."""
    monkeypatch.setenv("FORETHAW_LOG_FORMAT", "json")
    process, path = begin()
    model, client = Weights(tmp_path, 1), ask(path)
    client.preload("chat", model.files, model.layout, 10.0)
    taken(client, client.load("chat", 10.0))
    with pytest.raises(DriverError):
        client.load("other", 10.0)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20.0)
    events = [json.loads(line) for line in errors.splitlines()]

    assert process.returncode == 0
    assert [event["event"] for event in events] == [
        "holder_started",
        "model_preloaded",
        "weights_copied",
        "request_refused",
        "holder_stopped",
    ]
    started, preloaded, copied, refused, stopped = events
    assert {event["process"] for event in events} == {"weights-holder"}
    assert started["socket"] == str(path)
    assert (preloaded["model"], copied["model"], copied["bytes"]) == ("chat", "chat", len(model.expected))
    assert min(preloaded["read_s"], preloaded["pin_s"], copied["allocate_s"], copied["copy_s"], stopped["took_s"]) >= 0
    assert (refused["do"], refused["reason"], refused["level"]) == ("load", "WeightsFailed", "warning")
    assert (refused["client_pid"], refused["client_user_id"]) == (os.getpid(), os.geteuid())


def refusal(client: HolderClient) -> Reason:
    """Why a lease that is not known cannot be waited for: WEIGHTS_FAILED if the holder listened at all."""
    with pytest.raises(DriverError) as refused:
        client.wait("unknown", 10.0)
    return refused.value.reason


def test_clients_that_need_a_token_leave_connections_to_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third of them is refused at once where two may be connected; one that leaves makes room."""
    monkeypatch.setattr(holders, "_MOST_REPLICAS", 2)
    trusted = [False]
    monkeypatch.setattr(holders, "is_same_machine_root", lambda connection: trusted[0])
    with serving(HostDevice(GPU_BYTES), tmp_path / "socket", Weights(tmp_path, seed=1)):
        clients = [ask(tmp_path / "socket") for _ in range(3)]
        refusals = [refusal(client) for client in clients]
        trusted[0] = True
        status = ask(tmp_path / "socket").status()
        trusted[0] = False
        clients[0].close()
        eventually(lambda: refusal(ask(tmp_path / "socket")) is Reason.WEIGHTS_FAILED, "a free connection")

    assert refusals == [Reason.WEIGHTS_FAILED, Reason.WEIGHTS_FAILED, Reason.BUSY]
    assert status["leases"] == 0


def test_a_refusal_before_the_request_is_sent_keeps_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder has refused the connection and closed it by the time that the client sends."""

    def connect_to_a_full_holder(path: Path, deadline_s: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            MessageStream(theirs, 10_000).send(error_message(DriverError(Reason.BUSY, "full")))
        return ours

    monkeypatch.setattr(clients, "connect", connect_to_a_full_holder)

    assert refusal(ask(tmp_path / "socket")) is Reason.BUSY
