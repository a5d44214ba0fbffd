"""Stores of both kinds: a directory, and a real S3-compatible server over another one; and artifacts to put there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from restore_driver.artifact.seal import check_seal, seal_as_it_is
from restore_driver.cli import application
from restore_driver.store.address import Access, open_store
from restore_driver.store.backend import Backend
from tests.restore_driver.artifact.conftest import publish
from tests.restore_driver.waiting import eventually

ROOT = Path(__file__).parents[3]
KEYS = {"AWS_ACCESS_KEY_ID": "forethaw", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
BUCKET = "snapshots"


@pytest.fixture(scope="session")
def s3_program() -> Path:
    """The server of tests/parts/build_s3.sh, built on first use; without Go the tests on S3 are skipped.

    With FORETHAW_REQUIRE_PARTS=1 (CI) they fail instead.
    """
    home = ROOT / ".parts" / "s3"
    with (ROOT / ".parts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([ROOT / "tests/parts/build_s3.sh", home], capture_output=True, text=True, check=False)
    if done.returncode and os.environ.get("FORETHAW_REQUIRE_PARTS") == "1":
        pytest.fail(done.stderr)
    if done.returncode:
        pytest.skip(f"no S3-compatible server: {done.stderr.strip().splitlines()[-1]}")
    return home / "versitygw"


class S3Server:
    """One server on a directory; can be stopped and started again on the same port."""

    def __init__(self, program: Path, directory: Path, port: int) -> None:
        self._program, self.directory = program, directory
        self.endpoint = f"http://127.0.0.1:{port}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        (self.directory / BUCKET).mkdir(parents=True, exist_ok=True)
        keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
        argv = [
            str(self._program),
            "--quiet",
            "--port",
            self.endpoint.removeprefix("http://"),
            "posix",
            str(self.directory),
        ]
        self._child = subprocess.Popen(argv, env={**os.environ, **keys}, stdout=subprocess.DEVNULL)
        eventually(self._answers, "the S3 server")

    def stop(self) -> None:
        """Kill the server."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint, timeout=1.0).close()
        except urllib.error.HTTPError:
            return True  # it answers: an unauthenticated request is refused
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return a port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3(s3_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that all tests of this process share, each with a prefix of its own."""
    server = S3Server(s3_program, tmp_path_factory.mktemp("s3"), free_port())
    server.start()
    yield server
    server.stop()


@dataclass(frozen=True)
class Store:
    """A store's URL, and the directory in which its objects lie."""

    url: str
    directory: Path

    def backend(self) -> Backend:
        """Return the backend of the URL."""
        return open_store(self.url, Access(patience_s=5.0))

    def objects(self) -> list[str]:
        """Return the names of all objects."""
        paths = [path for path in self.directory.rglob("*") if path.is_file()]
        return sorted(path.relative_to(self.directory).as_posix() for path in paths)

    def corrupt(self, name: str) -> None:
        """Invert one byte of an object, as a bad disk does without an error."""
        path = self.directory / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        with path.open("r+b") as file:
            file.write(content)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of either kind."""
    if request.param == "local":
        (tmp_path / "store").mkdir()
        return Store(str(tmp_path / "store"), tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3")
    return s3_store(server, tmp_path.name, monkeypatch)


def s3_store(server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return an empty store on a server, which this process and its children reach by the environment."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.endpoint, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    directory = server.directory / BUCKET / prefix
    shutil.rmtree(directory, ignore_errors=True)
    return Store(f"s3://{BUCKET}/{prefix}", directory)


FILES = {
    "images/pages-1.img": os.urandom(1 << 20) + bytes(9 << 20),  # three chunks that compress well
    "images/core-9.img": b"core" * 1000,
    "images/empty.img": b"",
    "files.tar": os.urandom(5 << 20),  # two chunks that do not compress
}


def make_artifact(target: Path, files: dict[str, bytes] | None = None, **manifest: Any) -> Path:
    """Make a sealed artifact, as a checkpoint does."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    publish(target, FILES if files is None else files, **manifest)
    seal_as_it_is(target)
    return target


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A sealed artifact named `counter`."""
    return make_artifact(tmp_path / "made" / "counter")


def command(*words: str | Path) -> list[str]:
    """Return the command line of the driver's own program."""
    return [sys.executable, "-m", "restore_driver", *map(str, words)]


def forethaw(*words: str | Path, ok: int = 0) -> dict[str, Any]:
    """Run the command line within this process, which is faster than starting one, and return its JSON."""
    done = CliRunner().invoke(application(), [*map(str, words), "--json"])
    assert done.exit_code == ok, f"exit code {done.exit_code}: {done.stdout}{done.stderr}{done.exception!r}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def is_sealed(artifact: Path) -> bool:
    """Check the seal, and return True if it covers a file."""
    return bool(check_seal(artifact).files)


def same(one: Path, other: Path) -> bool:
    """Return True if two directories hold the same files."""
    return _contents(one) == _contents(other)


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
