"""Every failure that needs no GPU, injected for real: the right reason, and nothing mounted, running or half-written.

Each test ends by looking at the whole picture (`clean`): the placeholder holds its own PID 1 and nothing else, no CRIU
runs, no draft lies about, this machine's mounts are what they were.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from restore_driver.driver import Driver
from restore_driver.host import proc
from restore_driver.host.mounts import mount, unmount
from restore_driver.placeholder.create import Placeholder
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from tests.restore_driver.real.conftest import Place, Replica, Start, forethaw
from tests.restore_driver.trees import kill
from tests.restore_driver.waiting import eventually


def restore(snapshot: Path, placeholder: Placeholder, state: Path, *more: str) -> dict[str, Any]:
    return forethaw("restore", snapshot, "--into", str(placeholder.pid), *more, state=state, ok=(1, 2))


def writable(path: Path) -> None:
    """What an attacker with root, or a bad disk, does not need to ask for."""
    subprocess.run(["chattr", "-i", path], capture_output=True, check=False)
    path.parent.chmod(0o700)
    path.chmod(0o600)


def flip(path: Path, at: int) -> None:
    writable(path)
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def pages(snapshot: Path) -> Path:
    return max(snapshot.glob("images/pages-*.img"), key=lambda path: path.stat().st_size)


def test_a_corrupt_page_file_breaks_the_seal(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    flip(pages(snapshot), 12345)
    placeholder = place()
    result = restore(snapshot, placeholder, state)

    assert (result["phase"], result["reason"], result["fallback"]) == ("seal", "SealBroken", "cold-start")
    clean(placeholder)


def test_a_flipped_bit_under_an_unbroken_seal_is_found_by_verifying(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    flip(pages(snapshot), 12345)
    placeholder = place()
    result = restore(snapshot, placeholder, state, "--verify")

    assert (result["phase"], result["reason"]) == ("seal", "DigestMismatch")
    clean(placeholder)


def test_a_truncated_manifest_is_refused_at_the_gate(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    manifest = snapshot / "manifest.json"
    writable(manifest)
    manifest.write_bytes(manifest.read_bytes()[:-100])
    placeholder = place()
    result = restore(snapshot, placeholder, state)

    assert (result["outcome"], result["phase"], result["reason"]) == ("refused", "gate", "ManifestInvalid")
    clean(placeholder)


def test_another_machines_fingerprint_is_refused_with_both_values(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    manifest = snapshot / "manifest.json"
    writable(manifest)
    content = json.loads(manifest.read_text())
    content["fingerprint"]["arch"] = "riscv64"
    manifest.write_text(json.dumps(content))
    placeholder = place()
    result = restore(snapshot, placeholder, state)

    assert (result["outcome"], result["reason"]) == ("refused", "FingerprintMismatch")
    assert "riscv64" in result["detail"] and os.uname().machine in result["detail"]
    clean(placeholder)


@pytest.mark.parametrize("what", ["owner", "mode", "link"])
def test_an_artifact_that_another_could_have_written_is_refused(
    what: str, snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    if what == "owner":
        os.chown(snapshot, 1000, 1000)
    elif what == "mode":
        snapshot.chmod(0o777)
    else:
        snapshot.rename(snapshot.with_name("elsewhere"))
        snapshot.symlink_to(snapshot.with_name("elsewhere"))
    placeholder = place()
    result = restore(snapshot, placeholder, state)

    assert (result["outcome"], result["reason"]) == ("refused", "NotTrusted")
    clean(placeholder)


def test_a_taken_pid_is_refused_before_anything_is_touched(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    """Somebody in the placeholder has a PID that the snapshot needs."""
    placeholder = place()
    wanted = json.loads((snapshot / "manifest.json").read_text())["process"]["root_pid"]
    squatter = subprocess.Popen(
        [
            "nsenter",
            "--target",
            str(placeholder.pid),
            "--all",
            "sh",
            "-c",
            f"echo {wanted - 1} > /proc/sys/kernel/ns_last_pid; sleep 1000 & wait",
        ]
    )
    eventually(lambda: wanted in placeholder.members(), "the squatter")
    result = restore(snapshot, placeholder, state)
    kill(pid for pid in placeholder.members().values() if pid != placeholder.pid)
    squatter.wait()

    assert (result["outcome"], result["reason"]) == ("refused", "PidCollision")
    eventually(lambda: set(placeholder.members()) == {1}, "the squatter's end")
    clean(placeholder)


def test_a_hung_criu_is_killed_at_its_deadline(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    """CRIU waits for ever on a FIFO where a page file was; its whole group dies, and what it had forked."""
    page = pages(snapshot)
    request = RestoreRequest(artifact=snapshot, placeholder_pid=place().pid, deadlines_s={"criu-restore": 1.0})
    driver = Driver(open_toolset(state))

    def hang(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "criu-restore"):
            writable(page)
            page.unlink()
            os.mkfifo(page)

    result = driver.carry_out(request, hang)

    assert (result.phase, result.reason, result.fallback) == ("criu-restore", "DeadlineExceeded", "cold-start")
    clean(Placeholder(request.placeholder_pid))


@contextmanager
def stopping_criu() -> Iterator[None]:
    """SIGSTOP to whatever CRIU process shows up below this one meanwhile."""
    ended = threading.Event()

    def stop() -> None:
        while not ended.is_set():
            for pid in proc.tree(os.getpid())[1:]:
                with suppress(OSError):
                    if b"criu.bin" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGSTOP)
            time.sleep(0.002)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        yield
    finally:
        ended.set()
        stopper.join()


def test_a_stopped_criu_is_killed_at_its_deadline(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    placeholder, driver = place(), Driver(open_toolset(state))
    request = RestoreRequest(artifact=snapshot, placeholder_pid=placeholder.pid, deadlines_s={"criu-restore": 1.0})
    with stopping_criu():
        result = driver.carry_out(request)

    assert (result.phase, result.reason) == ("criu-restore", "DeadlineExceeded")
    clean(placeholder)


def test_a_criu_that_is_stopped_while_it_dumps_leaves_the_server_serving(
    start: Start, state: Path, tmp_path: Path
) -> None:
    server, driver = start(), Driver(open_toolset(state))
    artifact = tmp_path / "artifacts" / "snapshot"
    request = CheckpointRequest(
        pid=server.pid, artifact=artifact, replica=ReplicaSpec(), leave_running=False, deadlines_s={"criu-dump": 1.0}
    )
    with stopping_criu():
        result = driver.carry_out(request)

    assert (result.phase, result.reason, result.undo_errors) == ("criu-dump", "DeadlineExceeded", ())
    assert server.ask("POST", "/increment")["count"] == 1
    assert list(artifact.parent.iterdir()) == []


def test_a_process_that_lives_and_is_wrong_is_killed(
    start: Start, place: Place, state: Path, tmp_path: Path, clean: Callable[[Placeholder], None]
) -> None:
    """The known request gets another answer: its state is not the snapshot's."""
    server, placeholder, driver = start(), place(), Driver(open_toolset(state))
    known = {"call": {"url": f"http://127.0.0.1:{server.port}/count"}}
    spec = ReplicaSpec.model_validate({"proof": {"requests": [known]}})
    made = CheckpointRequest(pid=server.pid, artifact=tmp_path / "a" / "snapshot", replica=spec, leave_running=False)
    assert driver.carry_out(made).outcome == "ended"

    def count_on(event: str, phase: str) -> None:
        if (event, phase) == ("end", "fill-memory"):
            pid = next(pid for inside, pid in placeholder.members().items() if inside != 1)
            Replica(pid, server.port, server.directory).ask("POST", "/increment")

    result = driver.carry_out(RestoreRequest(artifact=made.artifact, placeholder_pid=placeholder.pid), count_on)

    assert (result.phase, result.reason, result.fallback) == ("prove", "ProofFailed", "cold-start")
    assert (
        (result.detail or "").replace("\\", "").endswith('answered "{"count": 1}", expected "{"count": 0}" as before')
    )
    clean(placeholder)


def test_the_same_pod_never_tries_the_same_snapshot_twice(
    snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    placeholder = place()
    first = restore(snapshot, placeholder, state, "--pod-uid", "pod-1", "--deadline", "criu-restore=0.000001")
    second = restore(snapshot, placeholder, state, "--pod-uid", "pod-1")

    assert (first["outcome"], first["reason"]) == ("failed", "DeadlineExceeded")
    assert (second["outcome"], second["reason"]) == ("refused", "AttemptedBefore")
    clean(placeholder)
    other = forethaw("restore", snapshot, "--into", str(placeholder.pid), "--pod-uid", "pod-2", state=state)
    assert other["outcome"] == "proven"


def test_a_second_restore_into_a_placeholder_is_refused_while_the_first_runs(
    snapshot: Path, place: Place, state: Path
) -> None:
    """The first has its lock and waits until the second is answered; then it goes on to its end."""
    request = RestoreRequest(artifact=snapshot, placeholder_pid=place().pid, pod_uid="pod-1")
    driver = Driver(open_toolset(state))
    locked, answered = threading.Event(), threading.Event()

    def hold(event: str, phase: str) -> None:
        if (event, phase) == ("end", "lock"):
            locked.set()
            assert answered.wait(20.0)

    with ThreadPoolExecutor(1) as aside:
        first = aside.submit(driver.carry_out, request, hold)
        assert locked.wait(20.0)
        second = driver.carry_out(request)
        answered.set()

    assert (second.outcome, second.phase, second.reason, second.fallback) == ("refused", "lock", "Busy", None)
    assert first.result().outcome == "proven"


def test_a_placeholder_that_dies_meanwhile_is_named(snapshot: Path, place: Place, state: Path) -> None:
    placeholder = place()
    request = RestoreRequest(artifact=snapshot, placeholder_pid=placeholder.pid)

    def end(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "criu-restore"):
            placeholder.end()
            eventually(lambda: not proc.is_alive(placeholder.pid), "the placeholder's end")

    result = Driver(open_toolset(state)).carry_out(request, end)

    assert (result.outcome, result.fallback) == ("failed", "cold-start")
    assert result.reason == "PlaceholderLost"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for less than a server's image."""
    path = tmp_path / "small"
    path.mkdir()
    mount("tmpfs", path, "tmpfs", options="size=3m,mode=0700")
    yield path
    unmount(path)


def test_a_full_disk_is_foreseen(start: Start, state: Path, small_disk: Path) -> None:
    server = start()
    result = forethaw("checkpoint", str(server.pid), small_disk / "snapshot", "--end", state=state, ok=(2,))

    assert (result["outcome"], result["reason"]) == ("refused", "DiskFull")
    assert server.ask("POST", "/increment")["count"] == 1


def test_a_disk_that_fills_meanwhile_costs_the_snapshot_and_not_the_server(
    start: Start, state: Path, tmp_path: Path
) -> None:
    """Room enough at the gate; gone when CRIU writes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("tmpfs", disk, "tmpfs", options="size=200m,mode=0700")
    try:
        server = start()
        request = CheckpointRequest(
            pid=server.pid, artifact=disk / "snapshot", replica=ReplicaSpec(), leave_running=False
        )

        def fill(event: str, phase: str) -> None:
            if (event, phase) == ("begin", "criu-dump"):
                with (disk / "ballast").open("wb") as ballast, suppress(OSError):
                    while True:
                        ballast.write(bytes(1 << 20))
                        ballast.flush()

        result = Driver(open_toolset(state)).carry_out(request, fill)

        assert (result.outcome, result.reason, result.undo_errors) == ("failed", "DiskFull", ())
        assert [path.name for path in disk.iterdir()] == ["ballast"]
        assert server.ask("POST", "/increment")["count"] == 1
    finally:
        unmount(disk)


def test_a_checkpoint_of_ourselves_or_of_init_is_refused(state: Path, tmp_path: Path) -> None:
    for pid, said in ((os.getpid(), "this driver or a parent"), (2, "")):
        request = CheckpointRequest(pid=pid, artifact=tmp_path / "snapshot", replica=ReplicaSpec())
        result = Driver(open_toolset(state)).carry_out(request)

        assert result.outcome == "refused"
        assert said in (result.detail or "")


def test_replica_that_is_pid_1_is_refused_with_a_hint(place: Place, state: Path, tmp_path: Path) -> None:
    request = CheckpointRequest(pid=place().pid, artifact=tmp_path / "snapshot", replica=ReplicaSpec())
    result = Driver(open_toolset(state)).carry_out(request)

    assert (result.outcome, result.reason) == ("refused", "RequestInvalid")
    assert "init" in (result.hint or "")
