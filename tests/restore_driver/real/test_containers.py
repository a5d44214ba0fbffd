"""From container to container: a root file system, shared memory, pipes, connections, a user and its capabilities."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from restore_driver.driver import Driver
from restore_driver.errors import DriverError
from restore_driver.host import proc
from restore_driver.host.mounts import mount, unmount
from restore_driver.host.netns import in_network_namespace
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from restore_driver.wire.result import Result
from tests.restore_driver.containers import Container, Tree, whole_tree
from tests.restore_driver.real.conftest import SERVER
from tests.restore_driver.waiting import PATIENCE_S, eventually

PORT = 8080
SHARED = Path("dev/shm/forethaw-counter-8080")
SEEN = ("srv", "run", "dev/shm")
"""What a test compares of a container's root: all that the image, the server and the tests put there."""


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """An image over this machine's root: the sample server, its directory, some files; open to every user."""
    image = tmp_path / "image"
    image.mkdir()
    mount("tmpfs", image, "tmpfs", options="mode=0755")
    app = image / "srv" / "app"
    app.mkdir(parents=True)
    shutil.copy(SERVER, app / "server.py")
    (app / "config").write_text("from the image")
    (app / "doomed").write_text("to be deleted")
    (app / "cache").mkdir()
    (app / "cache" / "old").write_text("old")
    (image / "srv" / "state").mkdir()
    (image / "srv" / "state").chmod(0o777)
    (image / "run").mkdir()
    os.setxattr(image / "run", "trusted.overlay.opaque", b"y")  # this machine's own changes while tests run
    for directory in reversed(Path(interpreter()).parents[:-1]):
        inside = image / str(directory).lstrip("/")
        if not stat.S_IMODE(directory.stat().st_mode) & 0o001:  # such as /root: the image's own is open
            inside.mkdir(parents=True, exist_ok=True)
            inside.chmod(0o755)
    yield image
    unmount(image)


def interpreter() -> str:
    return os.path.realpath(sys.executable)


@dataclass
class Server:
    """The sample server in a container, as we number its process."""

    pid: int

    def connect(self) -> socket.socket:
        """A connection from within its network namespace; it stays, wherever it is used."""
        return in_network_namespace(self.pid, lambda: socket.create_connection(("127.0.0.1", PORT), 5.0), PATIENCE_S)

    def ask(self, method: str, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.sock = self.connect()
        try:
            connection.request(method, path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def answers(self) -> bool:
        with suppress(OSError, DriverError):
            return bool(self.ask("GET", "/count"))
        return False

    def complain(self) -> None:
        """Has it write to its standard error: a caller resets its connection in the middle of a request."""
        with self.connect() as connection:
            connection.sendall(b"GET /count")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Pipe:
    """What a container engine holds the other end of."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def name(self) -> str:
        return f"pipe:[{os.fstat(self.read_fd).st_ino}]"

    def text(self) -> str:
        """All that was written by now."""
        os.set_blocking(self.read_fd, False)
        found = b""
        with suppress(BlockingIOError):
            while more := os.read(self.read_fd, 1 << 16):
                found += more
        return found.decode()

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


def unobserved(event: str, phase: str) -> None:
    """Let the phases pass."""


@dataclass
class World:
    """Two containers of one image, the output of each, and a driver beside them."""

    image: Path
    source: Container
    target: Container
    source_output: Pipe
    target_output: Pipe
    artifact: Path
    driver: Driver
    entered: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def serve(self, *options: str, wrap: tuple[str, ...] = ()) -> Server:
        """Starts the server in the first container, by an exec as `kubectl exec` would do it."""
        program = [*wrap, interpreter(), "/srv/app/server.py", "--port", str(PORT), "--directory", "/srv/state"]
        script = 'exec setsid "$@" </dev/null'  # a device of the container, as everything that it has open
        argv = ["nsenter", "--target", str(self.source.placeholder.pid), "--all", "sh", "-c", script, "sh", *program]
        output = self.source_output.write_fd
        self.entered.append(
            entering := subprocess.Popen([*argv, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        )

        def serving() -> Server | None:
            assert entering.poll() is None, self.source_output.text()
            inside = self.source.placeholder.members()
            server = Server(inside[min(set(inside) - {1})]) if len(inside) > 1 else None
            return server if server is not None and server.answers() else None

        server: Server = eventually(serving, "the server")
        return server

    def checkpoint(self, server: Server, *, leave_running: bool = False) -> Result:
        return self.driver.carry_out(
            CheckpointRequest(
                pid=server.pid, artifact=self.artifact, replica=ReplicaSpec(), leave_running=leave_running
            )
        )

    def restore(self, observe: Callable[[str, str], None] = unobserved, **deadlines_s: float) -> Result:
        request = RestoreRequest(
            artifact=self.artifact,
            placeholder_pid=self.target.placeholder.pid,
            deadlines_s={name.replace("_", "-"): limit_s for name, limit_s in deadlines_s.items()},
        )
        return self.driver.carry_out(request, observe)


@pytest.fixture
def world(tmp_path: Path, image: Path) -> Iterator[World]:
    pipes, made, entered = (Pipe(), Pipe()), list[Container](), list[subprocess.Popen[bytes]]()
    try:
        for name, pipe in zip(("source", "target"), pipes, strict=True):
            made.append(Container(tmp_path / name, image, pipe.write_fd))
        artifact = tmp_path / "artifacts" / "snapshot"
        yield World(image, made[0], made[1], *pipes, artifact, Driver(open_toolset(tmp_path / "state")), entered)
    finally:
        for container in made:
            with suppress(OSError):
                container.end()
        for pipe in pipes:
            pipe.close()
        for child in entered:
            child.kill()  # nsenter stops itself when the server is stopped, as it is while it is dumped
            child.wait()


def seen(container: Container) -> Tree:
    """The container's root with owners, modes, times and contents, as its own processes see it."""
    return {f"{top}/{path}": what for top in SEEN for path, what in whole_tree(container.seen / top).items()}


def write_over(root: Path) -> None:
    app = root / "srv" / "app"
    (app / "config").write_text("changed")
    (app / "doomed").unlink()
    (app / "new").mkdir(mode=0o700)
    (app / "new" / "log").write_text("a line\n")
    (app / "alias").symlink_to("/srv/app/config")
    shutil.rmtree(app / "cache")
    (app / "cache").mkdir()
    (app / "cache" / "fresh").write_text("fresh")
    os.chown(app / "new" / "log", 1000, 1000)


def test_a_server_and_its_files_move_from_one_container_to_another(world: World) -> None:
    """It counts and writes; it is dumped and ended; it comes up elsewhere with all it wrote, and counts on."""
    server = world.serve()
    write_over(world.source.seen)
    for _ in range(3):
        server.ask("POST", "/increment")
    state, files = server.ask("GET", "/state"), seen(world.source)
    fresh = seen(world.target)
    made = world.checkpoint(server)
    restored = world.restore()

    assert (made.outcome, restored.outcome) == ("ended", "proven"), (made, restored)
    assert seen(world.target) == files != fresh
    assert "srv/app/doomed" in fresh and "srv/app/doomed" not in files
    assert (world.target.seen / SHARED).read_bytes().startswith(b"count 3\0")
    server = Server(restored.answer["host_pid"])
    assert proc.namespace_id(server.pid, "mnt") == proc.namespace_id(world.target.placeholder.pid, "mnt")
    assert server.ask("GET", "/state") == state

    assert server.ask("POST", "/increment") == {"count": 4}
    assert (world.target.seen / "srv/state/counter.log").read_text() == "count 1\ncount 2\ncount 3\ncount 4\n"
    assert seen(world.source) == files


def test_its_output_goes_on_into_the_new_containers(world: World) -> None:
    server = world.serve()
    world.checkpoint(server)
    before = world.source_output.text()
    restored = world.restore()
    server = Server(restored.answer["host_pid"])
    server.complain()
    said = ""

    def complained() -> bool:
        nonlocal said
        said += world.target_output.text()
        return "ConnectionResetError" in said

    eventually(complained, "the complaint")

    assert before.startswith("pid ") and f"http://127.0.0.1:{PORT}" in before
    assert [os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in (1, 2)] == [world.target_output.name()] * 2
    assert world.source_output.text() == ""


def test_an_open_connection_ends_for_its_caller_and_new_ones_are_accepted(world: World) -> None:
    """Left running, the caller keeps it; ended, it reads the end of the stream; restored, the listener is there."""
    server = world.serve()
    with server.connect() as caller:
        world.checkpoint(server, leave_running=True)
        caller.sendall(b"GET /count HTTP/1.0\r\n\r\n")
        kept = http.client.HTTPResponse(caller)
        kept.begin()
        assert json.loads(kept.read()) == {"count": 0}
    with server.connect() as caller:
        caller.sendall(b"GET /co")
        made = world.checkpoint(server)
        ended = caller.recv(100)
    restored = world.restore()

    assert (made.outcome, ended) == ("ended", b"")
    assert restored.outcome == "proven", restored
    assert Server(restored.answer["host_pid"]).ask("POST", "/increment") == {"count": 1}


CREDENTIALS = ("Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Umask")


def credentials(pid: int) -> dict[str, str]:
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return {name: lines[name] for name in CREDENTIALS}


@pytest.mark.parametrize("capabilities", ["none", "one, ambient"])
def test_a_user_with_few_rights_has_them_and_no_more_after(capabilities: str, world: World) -> None:
    """Not root, no new privileges, a bounding set of one: as a restricted pod's container runs."""
    kept = "-all,+net_bind_service"
    own = ["--inh-caps", kept, "--ambient-caps", kept] if capabilities != "none" else []
    limits = ["--reuid", "1000", "--regid", "1000", "--groups", "1000,2000", "--no-new-privs", "--bounding-set", kept]
    # CRIU finds the names of sockets on an overlay only with all rights, which not every host's root has.
    server = world.serve("--unix-socket", "/dev/shm/counter.sock", wrap=("setpriv", *limits, *own))
    server.ask("POST", "/increment")
    before, files = credentials(server.pid), seen(world.source)
    made = world.checkpoint(server)
    restored = world.restore()

    assert (made.outcome, restored.outcome) == ("ended", "proven"), (made, restored)
    bit = "0000000000000400"
    assert (before["Uid"].split()[0], before["NoNewPrivs"], before["CapBnd"]) == ("1000", "1", bit)
    assert before["CapEff"] == (bit if own else "0" * 16)
    assert credentials(restored.answer["host_pid"]) == before
    assert seen(world.target) == files
    assert {path.stat().st_uid for path in world.artifact.rglob("*")} == {0}


def damage(world: World, kind: str) -> Callable[[str, str], None]:
    """Once the seal was looked at: pages that end too early, on which CRIU spins, a task that is none, or memory."""
    name = {"pages": "images/pages-*.img", "task": "images/core-*.img", "memory": "memory/pages-*.img"}[kind]

    def observe(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "criu-restore"):
            image = max(world.artifact.glob(name), key=lambda path: path.stat().st_size)
            image.parent.chmod(0o700)
            image.chmod(0o600)
            os.truncate(image, image.stat().st_size // 2)

    return observe


@pytest.mark.parametrize(
    ("failure", "phase", "reason"),
    [
        ("deadline", "criu-restore", "DeadlineExceeded"),
        ("pages", "criu-restore", "DeadlineExceeded"),
        ("task", "criu-restore", "CriuRestoreFailed"),
        ("memory", "fill-memory", "ManifestInvalid"),
        ("late", "fill-memory", "DeadlineExceeded"),
        ("proof", "prove", "DeadlineExceeded"),
    ],
)
def test_a_failed_restore_takes_all_files_back(failure: str, phase: str, reason: str, world: World) -> None:
    """Placed, then taken back: the container is what it was, to the last time stamp, and so is its upper layer."""
    server = world.serve()
    write_over(world.source.seen)
    server.ask("POST", "/increment")
    world.checkpoint(server)
    (world.target.seen / "srv/app/config").write_text("the target's own")
    (world.target.seen / SHARED).write_text("the target's own, too")
    (world.target.seen / "run/criu.kdat").write_text("a cache of the target's own")
    before, layer = seen(world.target), files_of(world.target.upper)
    if failure in ("pages", "task", "memory"):
        result = world.restore(damage(world, failure), criu_restore=2.0)
    else:
        deadlines_s = {phase.replace("-", "_"): 0.000001}
        result = world.restore(unobserved, **deadlines_s)

    assert (result.outcome, result.phase, result.reason, result.undo_errors) == ("failed", phase, reason, ()), result
    assert seen(world.target) == before
    assert set(world.target.placeholder.members()) == {1}
    # What overlayfs copied up to have it moved aside stays there, and is what the image has.
    assert files_of(world.target.upper).items() - files_of(world.image).items() == layer.items()


def files_of(layer: Path) -> Tree:
    """Directories excepted: overlayfs copies one up as soon as anything within it was touched."""
    return {path: what for path, what in whole_tree(layer).items() if what[0] != "d"}
