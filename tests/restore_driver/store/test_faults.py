"""Transfers that break, for real: what was there stays, nothing half is published, and the rest is enough."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from restore_driver.artifact.seal import check_seal
from restore_driver.commands.console import TransferBar
from restore_driver.errors import DriverError
from restore_driver.host.mounts import mount, unmount
from restore_driver.store import stage as staging_module
from restore_driver.store.backend import Backend
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.chunk_index import PIECE_BYTES
from restore_driver.store.stage import Stage
from tests.restore_driver.store.conftest import (
    ROOT,
    S3Server,
    Store,
    command,
    eventually,
    forethaw,
    free_port,
    make_artifact,
    s3_store,
    same,
)

PIECES = 8


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """An artifact of pieces that zstd can't make smaller: what lies in the store has the size of what is staged."""
    return make_artifact(tmp_path / "made" / "noise", {"noise.img": os.urandom(PIECES * PIECE_BYTES)})


@contextmanager
def running(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, which is gone afterwards."""
    child = subprocess.Popen(
        [*command(*words), "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def pieces_there(node: Path) -> int:
    """Lines of the record of a staging that is at work, or was."""
    return sum(len(path.read_text().splitlines()) for path in node.glob(".staging-*/pieces-of-*"))


def killed_stage(snapshot: str, target: Path, *, after_pieces: int) -> int:
    """A slow stage that dies by SIGKILL in the middle; returns how many pieces it had noted by then."""
    with running("stage", snapshot, target, "--bandwidth", "8Mi") as child:
        eventually(lambda: pieces_there(target.parent) >= after_pieces, "the first pieces")
        child.send_signal(signal.SIGKILL)
        child.wait()
    return pieces_there(target.parent)


def test_a_stage_that_was_killed_is_taken_up_and_fetches_only_the_rest(
    noise: Path, store: Store, tmp_path: Path
) -> None:
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    noted = killed_stage(f"{store.url}/noise", target, after_pieces=2)

    assert 2 <= noted < PIECES
    assert not target.exists()
    staged = forethaw("stage", f"{store.url}/noise", target)
    assert (staged["outcome"], staged["resumed_bytes"]) == ("staged", noted * PIECE_BYTES)
    assert staged["fetched_bytes"] == (PIECES - noted) * PIECE_BYTES
    assert same(noise, target) and check_seal(target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["noise", "noise.seal"]


def test_what_a_killed_stage_left_is_not_believed(noise: Path, store: Store, tmp_path: Path) -> None:
    """A disk that lost what was written: the digest at the file's end tells, and the file is fetched once more."""
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    noted = killed_stage(f"{store.url}/noise", target, after_pieces=2)
    (partial,) = target.parent.glob(".staging-*/artifact/noise.img")
    with partial.open("r+b") as file:
        file.write(bytes(100))
    staged = forethaw("stage", f"{store.url}/noise", target)

    assert staged["fetched_bytes"] == (2 * PIECES - noted) * PIECE_BYTES
    assert same(noise, target)


def test_a_stage_killed_after_sealing_is_taken_up(
    noise: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is read-only by then, and only the rename is missing."""
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(staging_module, "swap_in", kill)
        Stage(store.backend(), target, Limiter(None), TransferBar("", quiet=True), 5.0).run("noise", None)
    staged = forethaw("stage", f"{store.url}/noise", target)

    assert (staged["outcome"], staged["fetched_bytes"]) == ("staged", 0)
    assert same(noise, target) and check_seal(target)


def test_a_corrupt_object_is_named_and_nothing_is_published(noise: Path, store: Store, tmp_path: Path) -> None:
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    (name,) = [name for name in store.objects() if name.endswith("noise.img")]
    store.corrupt(name)
    failed = forethaw("stage", f"{store.url}/noise", target, ok=1)

    assert (failed["outcome"], failed["reason"]) == ("failed", "DigestMismatch")
    assert "files/noise.img" in failed["detail"] and "--again" in failed["hint"]
    assert not target.exists()


def test_an_index_that_lies_is_found_out_by_the_manifest(noise: Path, store: Store, tmp_path: Path) -> None:
    """Object and index fit each other and aren't what was dumped: the digest in the manifest decides."""
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    other = make_artifact(tmp_path / "other" / "noise", {"noise.img": os.urandom(PIECES * PIECE_BYTES)})
    forethaw("push", other, store.url)
    good, bad = (store.directory / "noise" / each["digest"] for each in forethaw("list", store.url)["snapshots"])
    for name in ("travel.json", "files/noise.img"):
        (good / name).write_bytes((bad / name).read_bytes())
    failed = forethaw("stage", f"{store.url}/noise/{good.name}", target, ok=1)

    assert failed["reason"] == "DigestMismatch"
    assert not target.exists()


def test_an_object_that_is_missing_is_named(noise: Path, store: Store, tmp_path: Path) -> None:
    forethaw("push", noise, store.url)
    (name,) = [name for name in store.objects() if name.endswith("noise.img")]
    (store.directory / name).unlink()
    failed = forethaw("stage", f"{store.url}/noise", tmp_path / "node" / "noise", ok=1)

    assert (failed["reason"], "noise.img is missing" in failed["detail"]) == ("DigestMismatch", True)


def test_a_push_that_was_killed_is_not_listed_and_taken_up(store: Store, tmp_path: Path) -> None:
    """A large file was sent and remembered; then the push died in the next one."""
    files = {"zeros.img": bytes(6 * PIECE_BYTES), "noise.img": os.urandom(5 * PIECE_BYTES)}
    artifact = make_artifact(tmp_path / "made" / "counter", files)
    with running("push", artifact, store.url, "--bandwidth", "4Mi") as child:
        eventually(lambda: any(name.endswith("travel.json") for name in store.objects()), "the first file")
        child.send_signal(signal.SIGKILL)
        child.wait()

    assert forethaw("list", store.url) == {"snapshots": [], "problems": []}
    pushed = forethaw("push", artifact, store.url)
    assert pushed["sent_bytes"] == 5 * PIECE_BYTES < pushed["stored_bytes"]
    forethaw("stage", f"{store.url}/counter", tmp_path / "node" / "counter")
    assert same(artifact, tmp_path / "node" / "counter")


def test_two_stages_of_one_snapshot_are_one(noise: Path, store: Store, tmp_path: Path) -> None:
    """The second says that the first is at work, and the first ends well."""
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    with running("stage", f"{store.url}/noise", target, "--bandwidth", "16Mi") as first:
        eventually(lambda: pieces_there(target.parent) >= 1, "the first piece")
        second = forethaw("stage", f"{store.url}/noise", target, ok=2)
        output, _ = first.communicate(timeout=60)

    assert (second["reason"], "another stage" in second["detail"]) == ("Busy", True)
    assert json.loads(output)["outcome"] == "staged"
    assert same(noise, target)


def test_a_store_that_is_down_is_told_within_its_patience(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens there. The subprocess's limit is the deadline; the time itself is not measured."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    where = ["--endpoint", f"http://127.0.0.1:{free_port()}", "--patience", "5s"]
    for words in (
        ("push", noise, "s3://bucket/x"),
        ("stage", "s3://bucket/x/noise", tmp_path / "node" / "noise"),
        ("list", "s3://bucket/x"),
        ("prune", "s3://bucket/x", "--keep-last", "1"),
    ):
        done = subprocess.run(
            [*command(*words, *where), "--json"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )

        assert (done.returncode, json.loads(done.stdout)["reason"]) == (2, "StoreUnreachable"), done.stderr
        assert "127.0.0.1" in json.loads(done.stdout)["detail"]


def test_keys_that_the_store_does_not_know_are_told(
    s3: S3Server, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store(s3, tmp_path.name, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    refused = forethaw("push", noise, store.url, ok=2)

    assert (refused["reason"], "AWS_" in refused["hint"]) == ("StoreUnreachable", True)
    assert "SignatureDoesNotMatch" in refused["detail"] and "\n" not in refused["detail"]
    assert "another" not in json.dumps(refused)


def test_a_server_without_tls_must_be_wanted(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3_store(s3, tmp_path.name, monkeypatch)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    refused = forethaw("list", store.url, ok=2)

    assert (refused["reason"], s3.endpoint in refused["detail"]) == ("RequestInvalid", True)
    assert forethaw("list", store.url, "--allow-http")["snapshots"] == []


@pytest.fixture
def own_s3(s3_program: Path, tmp_path: Path) -> Iterator[S3Server]:
    """A server that a test may stop."""
    server = S3Server(s3_program, tmp_path / "s3", free_port())
    server.start()
    yield server
    server.stop()


def test_a_store_that_comes_back_within_the_patience_costs_nothing(
    own_s3: S3Server, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a body, and started again: the stage goes on after its last piece."""
    store, target = s3_store(own_s3, "x", monkeypatch), tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    with running("stage", f"{store.url}/noise", target, "--bandwidth", "16Mi", "--patience", "60s") as child:
        eventually(lambda: pieces_there(target.parent) >= 2, "the first pieces")
        own_s3.stop()
        own_s3.start()
        output, said = child.communicate(timeout=60)

    assert child.returncode == 0, said
    assert json.loads(output)["outcome"] == "staged"
    assert same(noise, target)


def test_a_store_that_does_not_come_back_costs_what_is_missing_only(
    own_s3: S3Server, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, target = s3_store(own_s3, "x", monkeypatch), tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    with running("stage", f"{store.url}/noise", target, "--bandwidth", "16Mi", "--patience", "2s") as child:
        eventually(lambda: pieces_there(target.parent) >= 2, "the first pieces")
        own_s3.stop()
        output, _ = child.communicate(timeout=60)
    noted = pieces_there(target.parent)

    assert (child.returncode, json.loads(output)["reason"]) == (1, "StoreUnreachable")
    assert not target.exists()
    own_s3.start()
    assert forethaw("stage", f"{store.url}/noise", target)["resumed_bytes"] == noted * PIECE_BYTES


def test_a_disk_that_fills_meanwhile_publishes_nothing(noise: Path, store: Store, tmp_path: Path) -> None:
    """Room enough at the look; gone when the pieces come."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("tmpfs", disk, "tmpfs", options="size=48m,mode=0700")
    forethaw("push", noise, store.url)

    class Filling:
        """The store, to which something happens while it is read."""

        def __init__(self, backend: Backend) -> None:
            self._backend = backend
            self._once = threading.Lock()

        def __getattr__(self, name: str) -> object:
            return getattr(self._backend, name)

        def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
            if name.endswith("noise.img") and self._once.acquire(blocking=False):
                with (disk / "ballast").open("wb") as ballast, suppress(OSError):
                    while True:
                        ballast.write(bytes(1 << 20))
                        ballast.flush()
            return self._backend.read(name, start, end)

    try:
        task = Stage(Filling(store.backend()), disk / "noise", Limiter(None), TransferBar("", quiet=True), 5.0)  # type: ignore[arg-type]
        with pytest.raises(DriverError) as caught:
            task.run("noise", None)

        assert (caught.value.reason, task.begun) == ("DiskFull", True)
        assert not (disk / "noise").exists()
        (disk / "ballast").unlink()
        assert forethaw("stage", f"{store.url}/noise", disk / "noise")["outcome"] == "staged"
    finally:
        unmount(disk)
