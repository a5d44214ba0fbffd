"""The accept loop survives a lack of descriptors or threads without spinning, and serves every client of a burst."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from restore_driver.host.resident_server import Converse, ResidentServer
from restore_driver.host.unix_sockets import connect, is_served, listen
from tests.restore_driver.trees import descriptors
from tests.restore_driver.waiting import eventually

ROOT = Path(__file__).parents[3]
LONG_S = 20.0


def echo(connection: socket.socket) -> None:
    connection.settimeout(LONG_S)
    while data := connection.recv(100):
        connection.sendall(data)


@contextmanager
def serving(path: Path, converse: Converse = echo, most: int = 256) -> Iterator[ResidentServer]:
    server = ResidentServer(listen(path), converse, "client", most)
    thread = threading.Thread(target=server.run, kwargs={"drain": True})
    thread.start()
    yield server
    server.stop()
    thread.join(LONG_S)
    assert not thread.is_alive()


def answered(path: Path) -> bool:
    with connect(path, LONG_S) as client:
        client.sendall(b"hello")
        return client.recv(100) == b"hello"


@pytest.mark.parametrize("most", [1, 256])
def test_every_client_of_a_burst_is_answered(tmp_path: Path, most: int) -> None:
    """More clients than connections may be open: the others wait in the backlog."""
    with serving(tmp_path / "socket", most=most), ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda _: answered(tmp_path / "socket"), range(200))) == [True] * 200


def test_no_more_connections_are_served_at_once_than_the_limit(tmp_path: Path) -> None:
    gate, running, most = threading.Event(), list[int](), list[int]()
    guard = threading.Lock()

    def hold(connection: socket.socket) -> None:
        with guard:
            running.append(1)
            most.append(len(running))
        gate.wait(LONG_S)
        with guard:
            running.pop()

    with serving(tmp_path / "socket", hold, 3) as server:
        clients = [connect(tmp_path / "socket", LONG_S) for _ in range(8)]
        eventually(lambda: len(most) == 3, "three connections")
        assert server.connections() == 3
        gate.set()
        eventually(lambda: len(most) == 8, "all connections")
        for client in clients:
            client.close()

    assert max(most) == 3


def test_a_connection_that_fails_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_or_echo(connection: socket.socket) -> None:
        if connection.recv(1) == b"x":
            raise RuntimeError("a defect")
        connection.sendall(b"h")

    raised: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(str(arguments.exc_value)))
    with serving(tmp_path / "socket", fail_or_echo) as server:
        with connect(tmp_path / "socket", LONG_S) as client:
            client.sendall(b"x")
            assert client.recv(1) == b""
        with connect(tmp_path / "socket", LONG_S) as client:
            client.sendall(b"h")
            assert client.recv(1) == b"h"
        eventually(lambda: server.connections() == 0, "the end of both")

    assert raised == ["a defect"]


def test_a_connection_waits_while_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refusals = threading.Thread.start, [None] * 3

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "client" and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with serving(tmp_path / "socket"):
        assert answered(tmp_path / "socket")

    assert refusals == []


def test_a_stop_serves_what_was_requested_and_disconnects_silent_clients(tmp_path: Path) -> None:
    began, gate = threading.Event(), threading.Event()

    def answer_late(connection: socket.socket) -> None:
        if connection.recv(100):
            began.set()
            gate.wait(LONG_S)
            connection.sendall(b"done")

    with serving(tmp_path / "socket", answer_late) as server:
        silent, client = (connect(tmp_path / "socket", LONG_S) for _ in range(2))
        client.sendall(b"request")
        assert began.wait(LONG_S)
        server.stop()
        eventually(lambda: not is_served(tmp_path / "socket"), "the end of listening")
        gate.set()
        assert (silent.recv(100), client.recv(100)) == (b"", b"done")
        silent.close()
        client.close()


SERVER = """
import sys
from pathlib import Path
from restore_driver.host.resident_server import ResidentServer
from restore_driver.host.unix_sockets import listen

def echo(connection):
    while data := connection.recv(100):
        connection.sendall(data)

server = ResidentServer(listen(Path(sys.argv[1])), echo, "client")
print("ready", flush=True)
server.run(drain=False)
"""


def cpu_s(pid: int) -> float:
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def test_a_server_without_descriptors_does_not_spin_and_recovers(tmp_path: Path) -> None:
    """accept(2) fails with EMFILE all the while: the process's CPU time stays near zero, and then it serves again."""
    path = tmp_path / "socket"
    argv = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (descriptors(server.pid), 4096))
        with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
            for _ in range(20):  # for descriptors that are still free, or that accept(2) has reserved
                stack.enter_context(connect(path, LONG_S))
            clients = [pool.submit(answered, path) for _ in range(3)]
            before_s, began_s = cpu_s(server.pid), time.monotonic()
            eventually(lambda: time.monotonic() - began_s > 2.0, "two seconds without descriptors")
            used_s = cpu_s(server.pid) - before_s
            waiting = [client.done() for client in clients]
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (1024, 4096))
            done = [client.result(LONG_S) for client in clients]
        server.kill()

    assert (waiting, done) == ([False] * 3, [True] * 3)
    assert used_s < 0.1
