"""checkpoint and restore of a replica with CUDA state and weights in a holder, and every way in which that can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from restore_driver.attempt.phases import CHECKPOINT, RESTORE
from restore_driver.host import proc
from restore_driver.placeholder.create import Placeholder
from restore_driver.weights.client import HolderClient
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from restore_driver.wire.result import Result
from tests.restore_driver.gpu_sequences.conftest import GPUS, Machine, Ready, answer, killed_driver
from tests.restore_driver.gpu_sequences.test_park import OUT_OF_MEMORY, at
from tests.restore_driver.real.conftest import Place, Replica
from tests.restore_driver.waiting import eventually
from tests.restore_driver.weights.test_holder import Weights


def restored(machine: Machine, result: Result) -> Replica:
    assert (result.outcome, result.reason) == ("proven", None)
    return Replica(result.answer["host_pid"], machine.replica.port, machine.replica.directory)


def is_clean(machine: Machine, placeholder: Placeholder) -> bool:
    """No process in it but its first, and nothing of ours on the GPU."""
    return set(placeholder.members()) == {1} and machine.leases() == 0


def test_a_timeline_of_a_snapshot(ready: Ready, place: Place) -> None:
    """Counts to three, is dumped without weights, ends, and comes back on another GPU with the holder's weights."""
    machine = ready()
    for _ in range(3):
        machine.replica.ask("POST", "/increment")
    before = answer(machine.replica)
    made = machine.checkpoint(end=True)
    assert (made.outcome, made.reason) == ("ended", None)
    assert made.answer["bytes"] < 64 << 20

    result = machine.restore(place(), gpu=1)
    replica = restored(machine, result)

    assert answer(replica) == before
    assert replica.ask("POST", "/increment") == {"count": 4}
    assert machine.cuda_state(replica.pid) == "running"
    assert [each.phase for each in result.phases] == [row.phase.value for row in RESTORE.rows]
    assert machine.leases() == 0
    moved = [line for line in machine.stand_in.calls() if line.startswith("restore ")]
    assert moved == [f"restore {replica.pid} {raw(GPUS[0].uuid)}>{raw(GPUS[1].uuid)}"]
    checks = {check["what"]: check["got"] for check in result.phases[-1].details["checks"]}
    assert checks["weights' digest"] == digest_before(machine)


def raw(uuid: str) -> str:
    return uuid.removeprefix("GPU-").replace("-", "")


def digest_before(machine: Machine) -> str:
    from restore_driver.artifact.manifest import load_manifest

    return str(load_manifest(machine.artifact).proof.weights_digest)


def test_a_replica_that_is_left_running_takes_its_weights_back(ready: Ready) -> None:
    machine = ready()
    before = answer(machine.replica)
    made = machine.checkpoint(end=False)

    assert [each.phase for each in made.phases] == [row.phase.value for row in CHECKPOINT.rows]
    assert (made.outcome, machine.cuda_state(), machine.leases()) == ("published", "running", 0)
    assert answer(machine.replica) == before


def test_a_dump_that_fails_leaves_the_replica_serving(ready: Ready) -> None:
    """Its CUDA state was in host memory and its weights were gone; all comes back, in reverse order."""
    machine = ready()
    before = answer(machine.replica)
    request = CheckpointRequest(
        pid=machine.replica.pid, artifact=machine.artifact, replica=machine.spec, deadlines_s={"criu-dump": 0.001}
    )
    result = machine.driver.carry_out(request)

    assert (result.outcome, result.phase, result.reason) == ("failed", "criu-dump", "DeadlineExceeded")
    assert result.undone == ("continue-tree", "drop-draft", "restore-cuda", "resume-engine")
    assert result.undo_errors == ()
    assert (machine.cuda_state(), answer(machine.replica), machine.leases()) == ("running", before, 0)
    assert list(machine.artifact.parent.iterdir()) == []


def too_little_memory(machine: Machine, tmp_path: Path) -> Callable[[str, str], None]:
    holder = HolderClient(machine.holder)
    token = holder.load("m", 5.0)
    holder.wait(token, 5.0)
    return at("end-of-all", holder.close)


def holder_dies(machine: Machine, tmp_path: Path) -> Callable[[str, str], None]:
    """After it has promised the weights, while CRIU restores."""

    def kill() -> None:
        holder = HolderClient(machine.holder)
        os.kill(holder.status()["pid"], signal.SIGKILL)
        holder.close()

    return at("criu-restore", kill)


def out_of_memory(machine: Machine, tmp_path: Path) -> Callable[[str, str], None]:
    """In CUDA's restore, of whichever PID it gets."""
    return at("cuda-restore", lambda: fault_all(machine, OUT_OF_MEMORY))


def cuda_hangs(machine: Machine, tmp_path: Path) -> Callable[[str, str], None]:
    return at("cuda-restore", lambda: fault_all(machine, "hang"))


def fault_all(machine: Machine, what: str | int) -> None:
    for entry in (machine.stand_in.directory / "processes").iterdir():
        machine.stand_in.fault("restore", int(entry.name), what)


def other_weights(machine: Machine, tmp_path: Path) -> Callable[[str, str], None]:
    """A model of the same name and layout, retrained since."""
    directory = tmp_path / "retrained"
    directory.mkdir()
    new = Weights(directory, seed=2)
    holder = HolderClient(machine.holder)
    holder.preload("m", new.files, new.layout, 10.0)
    holder.close()
    return lambda *_: None


def larger_weights(machine: Machine, tmp_path: Path) -> Callable[[str, str], None]:
    directory = tmp_path / "larger"
    directory.mkdir()
    new = Weights(directory, seed=3, size=4 << 20)
    holder = HolderClient(machine.holder)
    holder.preload("m", new.files, new.layout, 10.0)
    holder.close()
    return lambda *_: None


@pytest.mark.parametrize(
    ("spoil", "phase", "reason"),
    [
        (too_little_memory, "weights-load", "TooLittleMemory"),
        (holder_dies, "resume", "ResumeFailed"),
        (out_of_memory, "cuda-restore", "CudaFailed"),
        (cuda_hangs, "cuda-restore", "DeadlineExceeded"),
        (larger_weights, "resume", "ResumeFailed"),
        (other_weights, "prove", "ProofFailed"),
    ],
)
def test_failed_restore_leaves_nothing_and_falls_back_to_a_cold_start(
    spoil: Callable[[Machine, Path], Callable[[str, str], None]],
    phase: str,
    reason: str,
    ready: Ready,
    place: Place,
    tmp_path: Path,
) -> None:
    machine = ready(gpu_bytes=(512 << 20) + (5 << 20))
    assert machine.checkpoint(end=True).outcome == "ended"
    placeholder = place()
    spoiling = spoil(machine, tmp_path)
    request_deadline_s = {"cuda-restore": 1.0}
    result = machine.restore(placeholder, spoiling, deadlines_s=request_deadline_s)
    spoiling("begin", "end-of-all")

    outcome = "refused" if phase == "weights-load" else "failed"
    assert (result.outcome, result.phase, result.reason) == (outcome, phase, reason), result.detail
    assert result.fallback == "cold-start"
    assert set(placeholder.members()) == {1}
    if reason != "ResumeFailed":
        assert is_clean(machine, placeholder)
        assert result.undo_errors == ()


def test_a_dead_holder_is_refused_before_anything_is_touched(ready: Ready, place: Place) -> None:
    machine = ready()
    machine.checkpoint(end=True)
    holder = HolderClient(machine.holder)
    os.kill(holder.status()["pid"], signal.SIGKILL)
    holder.close()
    placeholder = place()
    result = machine.restore(placeholder)

    assert (result.phase, result.reason, result.fallback) == ("weights-load", "WeightsFailed", "cold-start")
    assert set(placeholder.members()) == {1}


@pytest.mark.parametrize("phase", [row.phase.value for row in RESTORE.rows if row.phase.value not in ("gate", "lock")])
def test_a_driver_killed_while_restoring_leaves_nothing(phase: str, ready: Ready, place: Place) -> None:
    machine = ready()
    machine.checkpoint(end=True)
    placeholder = place()
    request = RestoreRequest(artifact=machine.artifact, placeholder_pid=placeholder.pid, gpus=(GPUS[0].uuid,))
    killed_driver(machine, request, phase, placeholder=placeholder)
    recovered = machine.another_driver().recover()

    assert [each.errors for each in recovered] == [()]
    assert is_clean(machine, placeholder)
    again = machine.restore(placeholder)
    if phase in ("seal", "weights-load"):  # nothing was touched by then
        assert again.outcome == "proven"
    else:
        assert (again.outcome, again.reason) == ("refused", "AttemptedBefore")


def test_two_concurrent_restores_on_a_gpu_with_memory_for_one(ready: Ready, place: Place) -> None:
    """The holder's promises count: one is proven, the other refused, with its placeholder clean."""
    machine = ready(gpu_bytes=(512 << 20) + (5 << 20))
    machine.checkpoint(end=True)
    placeholders = [place(), place()]
    for placeholder in placeholders:  # clones bind the same path, each in a directory of its own
        own = ["nsenter", "--target", str(placeholder.pid), "--mount", "mount", "-t", "tmpfs", "tmpfs"]
        subprocess.run([*own, str(machine.control.parent)], check=True)
    begun = threading.Barrier(2)
    results: list[Result] = []

    def wait_for_both() -> None:
        begun.wait(10.0)

    def one(placeholder: Placeholder) -> None:
        results.append(machine.restore(placeholder, at("weights-load", wait_for_both)))

    threads = [threading.Thread(target=one, args=(placeholder,)) for placeholder in placeholders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted((result.outcome, result.reason or "") for result in results) == [
        ("proven", ""),
        ("refused", "TooLittleMemory"),
    ]
    assert sorted(len(placeholder.members()) for placeholder in placeholders) == [1, 2]
    assert machine.leases() == 0
    eventually(lambda: all(proc.is_alive(placeholder.pid) for placeholder in placeholders), "the placeholders")
