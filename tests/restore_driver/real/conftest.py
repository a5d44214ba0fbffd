"""Real replicas on real CRIU: the sample server, placeholders, and a driver with a state directory of its own.

Runs as root. CRIU is the one of `make criu`, installed on the first use.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from restore_driver.errors import DriverError
from restore_driver.host.mounts import mount_points
from restore_driver.host.netns import in_network_namespace
from restore_driver.placeholder.create import Network, Placeholder, create
from tests.restore_driver.trees import kill_tree
from tests.restore_driver.waiting import PATIENCE_S, eventually

ROOT = Path(__file__).parents[3]
SERVER = ROOT / "examples" / "counter_server.py"


@pytest.fixture(scope="session", autouse=True)
def criu() -> None:
    """FORETHAW_CRIU names a working CRIU for this session and for the processes that it starts."""
    if os.geteuid() != 0:
        pytest.skip("CRIU needs root")
    home = Path(os.environ.get("FORETHAW_CRIU", ROOT / ".criu"))
    with (ROOT / ".criu.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if home == ROOT / ".criu":  # at once done when it is there, and of this install.sh
            subprocess.run([ROOT / "restore_driver/criu/install.sh", home], check=True, capture_output=True)
    os.environ["FORETHAW_CRIU"] = str(home)


class Replica:
    """One sample server, wherever it runs: `pid` is its first process as we number it."""

    def __init__(self, pid: int, port: int, directory: Path) -> None:
        self.pid, self.port, self.directory = pid, port, directory

    def ask(self, method: str, path: str) -> Any:
        """One request, from within the replica's network namespace."""

        def call() -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            try:
                connection.request(method, path)
                return json.loads(connection.getresponse().read())
            finally:
                connection.close()

        return in_network_namespace(self.pid, call, PATIENCE_S)

    def answers(self) -> bool:
        """Whether it does."""
        with suppress(OSError, DriverError, http.client.HTTPException):  # the last: it ended in the middle of one
            return bool(self.ask("GET", "/count"))
        return False

    def end(self) -> None:
        """Kills all of it."""
        kill_tree(self.pid)


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Start = Callable[..., Replica]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sample servers on this machine, in a session of their own; ends them after the test."""
    started: list[tuple[Replica, subprocess.Popen[bytes]]] = []

    def begin(*options: str, enter: int | None = None) -> Replica:
        # Not below pytest's own directory, which only its user may enter: some servers become another user.
        port, directory = free_port(), Path(tempfile.mkdtemp(prefix="counter-"))
        directory.chmod(0o777)
        program = [os.path.realpath(sys.executable), str(SERVER), "--port", str(port), "--directory", str(directory)]
        if enter is not None:
            program = ["nsenter", "--target", str(enter), "--all", *program]
        with (directory / "log").open("wb") as log:
            child = subprocess.Popen(
                [*program, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        replica = Replica(child.pid, port, directory)
        started.append((replica, child))
        eventually(replica.answers, f"the sample server: {(directory / 'log').read_text()}")
        return replica

    yield begin
    for replica, child in started:
        replica.end()
        child.wait()
        shutil.rmtree(replica.directory)


Place = Callable[..., Placeholder]


@pytest.fixture
def place() -> Iterator[Place]:
    """Makes placeholders; ends them, and all within, after the test."""
    made: list[Placeholder] = []

    def make(network: Network = "private", root: Path = Path("/")) -> Placeholder:
        made.append(create(network=network, root=root))
        return made[-1]

    yield make
    for placeholder in made:
        placeholder.end()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory of the test's own."""
    return tmp_path / "state"


def forethaw(*words: str | Path, state: Path, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Runs the command line as a user does and returns its JSON.

    `python -m restore_driver` is the same application without the simulator's commands, and starts faster.
    """
    argv = [sys.executable, "-m", "restore_driver", *map(str, words), "--state", str(state), "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in ok, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def snapshot(start: Start, state: Path, tmp_path: Path) -> Path:
    """An artifact of a server that counted to three; the server has ended."""
    server = start()
    for _ in range(3):
        server.ask("POST", "/increment")
    forethaw("checkpoint", str(server.pid), tmp_path / "artifacts" / "snapshot", "--end", state=state)
    return tmp_path / "artifacts" / "snapshot"


@pytest.fixture
def clean(tmp_path: Path) -> Iterator[Callable[[Placeholder], None]]:
    """Asserts that a failed restore left nothing; the machine's mounts are compared at the test's end, too."""
    before = mounts(tmp_path)

    def check(placeholder: Placeholder) -> None:
        assert set(placeholder.members()) == {1}
        assert programs_below(tmp_path) == []
        assert mounts(tmp_path) == before

    yield check
    assert mounts(tmp_path) == before


def mounts(ours: Path) -> list[Path]:
    """This machine's mount points, but for what a test beside this one has in a directory of its own."""
    temporary = Path(tempfile.gettempdir())
    return [point for point in mount_points() if temporary not in point.parents or ours in point.parents]


def programs_below(directory: Path) -> list[str]:
    """Command lines of CRIU processes that work on something below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"criu.bin") for word in words) and str(directory) in str(os.readlink(entry / "cwd")):
                found.append(entry.name)
    return found
