"""Interrupted transfers: old artifacts stay, nothing incomplete is published, and only the rest is transferred."""

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

from restore_driver.commands.console import TransferBar
from restore_driver.errors import DriverError
from restore_driver.host.mounts import mount, unmount
from restore_driver.store import stage as staging_module
from restore_driver.store.backend import Backend
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.chunk_index import CHUNK_BYTES
from restore_driver.store.stage import Stage
from tests.restore_driver.store.conftest import (
    ROOT,
    S3Server,
    Store,
    command,
    forethaw,
    free_port,
    is_sealed,
    make_artifact,
    s3_store,
    same,
)
from tests.restore_driver.waiting import eventually

CHUNKS = 8


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """An artifact of chunks that zstd cannot compress: sizes in the store and on the node are equal."""
    return make_artifact(tmp_path / "made" / "noise", {"noise.img": os.urandom(CHUNKS * CHUNK_BYTES)})


@contextmanager
def running(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command line in a process of its own, which is killed afterwards."""
    child = subprocess.Popen(
        [*command(*words), "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def chunks_there(node: Path) -> int:
    """Count the lines of the chunk record of an unfinished stage."""
    return sum(len(path.read_text().splitlines()) for path in node.glob(".staging-*/chunks-of-*"))


def killed_stage(snapshot: str, target: Path, *, after_chunks: int) -> int:
    """Kill a slow stage after some chunks, and return how many it had recorded."""
    with running("stage", snapshot, target, "--bandwidth", "8Mi") as child:
        eventually(lambda: chunks_there(target.parent) >= after_chunks, "the first chunks")
        child.send_signal(signal.SIGKILL)
        child.wait()
    return chunks_there(target.parent)


def test_a_killed_stage_is_resumed_and_fetches_only_the_missing_chunks(
    noise: Path, store: Store, tmp_path: Path
) -> None:
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    noted = killed_stage(f"{store.url}/noise", target, after_chunks=2)

    assert 2 <= noted < CHUNKS
    assert not target.exists()
    staged = forethaw("stage", f"{store.url}/noise", target)
    assert (staged["outcome"], staged["resumed_bytes"]) == ("staged", noted * CHUNK_BYTES)
    assert staged["fetched_bytes"] == (CHUNKS - noted) * CHUNK_BYTES
    assert same(noise, target) and is_sealed(target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["noise", "noise.seal"]


def test_chunks_of_a_killed_stage_are_verified_before_they_are_used(noise: Path, store: Store, tmp_path: Path) -> None:
    """The disk lost a write: the digest of the whole file differs, and the file is fetched once more."""
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    noted = killed_stage(f"{store.url}/noise", target, after_chunks=2)
    (partial,) = target.parent.glob(".staging-*/artifact/noise.img")
    with partial.open("r+b") as file:
        file.write(bytes(100))
    staged = forethaw("stage", f"{store.url}/noise", target)

    assert staged["fetched_bytes"] == (2 * CHUNKS - noted) * CHUNK_BYTES
    assert same(noise, target)


def test_a_stage_killed_after_sealing_is_resumed(
    noise: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files are read-only by then, and only the rename is missing."""
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
    assert same(noise, target) and is_sealed(target)


def test_a_corrupt_object_is_named_and_nothing_is_published(noise: Path, store: Store, tmp_path: Path) -> None:
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    (name,) = [name for name in store.objects() if name.endswith("noise.img")]
    store.corrupt(name)
    failed = forethaw("stage", f"{store.url}/noise", target, ok=1)

    assert (failed["outcome"], failed["reason"]) == ("failed", "DigestMismatch")
    assert "files/noise.img" in failed["detail"] and "--again" in failed["hint"]
    assert not target.exists()


def test_a_wrong_index_is_refused_by_the_manifests_digest(noise: Path, store: Store, tmp_path: Path) -> None:
    """Object and index match each other but not the dump: the digest in the manifest decides."""
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    other = make_artifact(tmp_path / "other" / "noise", {"noise.img": os.urandom(CHUNKS * CHUNK_BYTES)})
    forethaw("push", other, store.url)
    good, bad = (store.directory / "noise" / each["digest"] for each in forethaw("list", store.url)["snapshots"])
    for name in ("chunks.json", "files/noise.img"):
        (good / name).write_bytes((bad / name).read_bytes())
    failed = forethaw("stage", f"{store.url}/noise/{good.name}", target, ok=1)

    assert failed["reason"] == "DigestMismatch"
    assert not target.exists()


def test_a_missing_object_is_named(noise: Path, store: Store, tmp_path: Path) -> None:
    forethaw("push", noise, store.url)
    (name,) = [name for name in store.objects() if name.endswith("noise.img")]
    (store.directory / name).unlink()
    failed = forethaw("stage", f"{store.url}/noise", tmp_path / "node" / "noise", ok=1)

    assert (failed["reason"], "noise.img is missing" in failed["detail"]) == ("DigestMismatch", True)


def test_a_killed_push_is_not_listed_and_is_resumed(store: Store, tmp_path: Path) -> None:
    """The push is killed in the second file: the first one, large and recorded, is not sent again."""
    files = {"zeros.img": bytes(6 * CHUNK_BYTES), "noise.img": os.urandom(5 * CHUNK_BYTES)}
    artifact = make_artifact(tmp_path / "made" / "counter", files)
    with running("push", artifact, store.url, "--bandwidth", "4Mi") as child:
        eventually(lambda: any(name.endswith("chunks.json") for name in store.objects()), "the first file")
        child.send_signal(signal.SIGKILL)
        child.wait()

    assert forethaw("list", store.url) == {"snapshots": [], "problems": []}
    pushed = forethaw("push", artifact, store.url)
    assert pushed["sent_bytes"] == 5 * CHUNK_BYTES < pushed["stored_bytes"]
    forethaw("stage", f"{store.url}/counter", tmp_path / "node" / "counter")
    assert same(artifact, tmp_path / "node" / "counter")


def test_a_second_stage_of_the_same_snapshot_is_refused_while_the_first_runs(
    noise: Path, store: Store, tmp_path: Path
) -> None:
    """The second is refused with BUSY, and the first succeeds."""
    target = tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    with running("stage", f"{store.url}/noise", target, "--bandwidth", "16Mi") as first:
        eventually(lambda: chunks_there(target.parent) >= 1, "the first chunk")
        second = forethaw("stage", f"{store.url}/noise", target, ok=2)
        output, _ = first.communicate(timeout=60)

    assert (second["reason"], "another stage" in second["detail"]) == ("Busy", True)
    assert json.loads(output)["outcome"] == "staged"
    assert same(noise, target)


def test_an_unreachable_store_is_reported_within_its_patience(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is closed. The limit of the subprocess is the deadline; the time itself is not measured."""
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


def test_wrong_credentials_are_reported_with_the_servers_code_and_without_the_keys(
    s3: S3Server, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store(s3, tmp_path.name, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    refused = forethaw("push", noise, store.url, ok=2)

    assert (refused["reason"], "AWS_" in refused["hint"]) == ("StoreUnreachable", True)
    assert "SignatureDoesNotMatch" in refused["detail"] and "\n" not in refused["detail"]
    assert "another" not in json.dumps(refused)


def test_a_server_without_tls_needs_an_option(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3_store(s3, tmp_path.name, monkeypatch)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    refused = forethaw("list", store.url, ok=2)

    assert (refused["reason"], s3.endpoint in refused["detail"]) == ("RequestInvalid", True)
    assert forethaw("list", store.url, "--allow-http")["snapshots"] == []


@pytest.fixture
def own_s3(s3_program: Path, tmp_path: Path) -> Iterator[S3Server]:
    """A server that the test may stop."""
    server = S3Server(s3_program, tmp_path / "s3", free_port())
    server.start()
    yield server
    server.stop()


def test_a_stage_survives_a_restart_of_the_store_within_its_patience(
    own_s3: S3Server, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed within a response and started again: the stage continues after its last chunk."""
    store, target = s3_store(own_s3, "x", monkeypatch), tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    with running("stage", f"{store.url}/noise", target, "--bandwidth", "16Mi", "--patience", "60s") as child:
        eventually(lambda: chunks_there(target.parent) >= 2, "the first chunks")
        own_s3.stop()
        own_s3.start()
        output, errors = child.communicate(timeout=60)

    assert child.returncode == 0, errors
    assert json.loads(output)["outcome"] == "staged"
    assert same(noise, target)


def test_a_stage_that_lost_its_store_is_resumed_after_the_last_chunk(
    own_s3: S3Server, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, target = s3_store(own_s3, "x", monkeypatch), tmp_path / "node" / "noise"
    forethaw("push", noise, store.url)
    with running("stage", f"{store.url}/noise", target, "--bandwidth", "16Mi", "--patience", "2s") as child:
        eventually(lambda: chunks_there(target.parent) >= 2, "the first chunks")
        own_s3.stop()
        output, _ = child.communicate(timeout=60)
    noted = chunks_there(target.parent)

    assert (child.returncode, json.loads(output)["reason"]) == (1, "StoreUnreachable")
    assert not target.exists()
    own_s3.start()
    assert forethaw("stage", f"{store.url}/noise", target)["resumed_bytes"] == noted * CHUNK_BYTES


def test_a_disk_that_fills_during_a_stage_publishes_nothing(noise: Path, store: Store, tmp_path: Path) -> None:
    """The free space suffices at the check, and is used up when the chunks arrive."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("tmpfs", disk, "tmpfs", options="size=48m,mode=0700")
    forethaw("push", noise, store.url)

    class Filling:
        """A store whose reader fills the disk."""

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
