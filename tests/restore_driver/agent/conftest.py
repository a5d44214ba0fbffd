"""Real agents, and replicas whose known request is answered when the test says so: it holds an attempt where it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from restore_driver.wire.replica_spec import ReplicaSpec
from tests.restore_driver.real.conftest import ROOT, criu, place
from tests.restore_driver.waiting import PATIENCE_S

__all__ = ["criu", "place"]  # fixtures


@dataclass
class RunningAgent:
    """`python -m restore_driver agent` in a process of its own."""

    process: subprocess.Popen[str]
    path: Path
    log: Path
    """Its standard error: JSON lines, and the sentence of a refusal to start."""

    def wait(self) -> int:
        """Return its exit code."""
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return its log lines so far, of one event or all."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in found if name is None or event["event"] == name]

    def sentences(self) -> list[str]:
        """Return the lines of standard error that are not of the log."""
        return [line for line in self.log.read_text().splitlines() if not line.startswith("{")]

    def says(self, sent: bytes, *, hang_up: bool = False) -> list[dict[str, Any]]:
        """What comes back for these bytes, to the end of the connection."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.path))
            connection.sendall(sent)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answers:
                return [json.loads(line) for line in answers]


StartAgent = Callable[..., RunningAgent]


def started(directory: Path, name: str = "agent.sock") -> RunningAgent:
    """An agent that serves, with its state below a directory; or one that has ended."""
    argv = [sys.executable, "-m", "restore_driver", "agent", "--state", str(directory / "state")]
    argv += ["--socket", str(directory / name), "--log-format", "json"]
    log = Path(tempfile.mkdtemp(dir=directory)) / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # "ready on ...", or the end
    return RunningAgent(process, directory / name, log)


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents on one state directory; kills those that are left."""
    made: list[RunningAgent] = []

    def start(name: str = "agent.sock") -> RunningAgent:
        made.append(started(tmp_path, name))
        return made[-1]

    yield start
    for agent in made:
        agent.process.kill()
        agent.wait()


@pytest.fixture(scope="module")
def agent() -> Iterator[RunningAgent]:
    """One for all tests that leave it as it was, in a directory that any user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="agent-"))
    directory.chmod(0o755)
    running = started(directory)
    yield running
    running.process.send_signal(signal.SIGTERM)
    code, sentences = running.wait(), running.sentences()
    shutil.rmtree(directory)
    assert (code, sentences) == (0, [])


@dataclass
class Oracle:
    """Answers every known request, but only while its gate is open."""

    port: int
    gate: threading.Event = field(default_factory=threading.Event)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def replica(self) -> ReplicaSpec:
        """A replica that is proven by asking here."""
        known = {"call": {"url": f"http://127.0.0.1:{self.port}/"}, "expect": {"kind": "text", "text": "42"}}
        return ReplicaSpec.model_validate({"proof": {"requests": [known]}})

    def wait_until_asked(self, times: int = 1) -> None:
        """An attempt is at work, and stays there until the gate opens."""
        for _ in range(times):
            assert self.asked.acquire(timeout=PATIENCE_S), "no request came"


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.release()
            assert made.gate.wait(PATIENCE_S)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"42")

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Whoever asked was killed meanwhile."""

    with Server(("127.0.0.1", 0), Handler) as server:
        made = Oracle(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        made.gate.set()
        server.shutdown()
        thread.join()


Sleeper = Callable[[], int]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """Starts the smallest of replicas; returns its PID."""
    made: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        null = subprocess.DEVNULL
        made.append(
            subprocess.Popen(["sleep", "1000"], stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/")
        )
        return made[-1].pid

    yield start
    for child in made:
        child.kill()
        child.wait()


def is_there(pid: int) -> bool:
    """Whether a process of ours has not ended."""
    return os.path.exists(f"/proc/{pid}/exe")
