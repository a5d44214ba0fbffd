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
from tests.restore_driver.gpu_sequences.conftest import GPUS, Card, Ready, answer, killed_driver
from tests.restore_driver.gpu_sequences.test_park import OUT_OF_MEMORY, at
from tests.restore_driver.real.conftest import Place, Replica
from tests.restore_driver.waiting import eventually
from tests.restore_driver.weights.test_holder import Weights


def restored(card: Card, result: Result) -> Replica:
    assert (result.outcome, result.reason) == ("proven", None)
    return Replica(result.answer["host_pid"], card.replica.port, card.replica.directory)


def is_clean(card: Card, placeholder: Placeholder) -> bool:
    """Nobody in it but its first process, and nothing of ours on the card."""
    return set(placeholder.members()) == {1} and card.leases() == 0


def test_a_timeline_of_a_snapshot(ready: Ready, place: Place) -> None:
    """Counts to three, is dumped without weights, ends, and comes back on another GPU with the holder's weights."""
    card = ready()
    for _ in range(3):
        card.replica.ask("POST", "/increment")
    before = answer(card.replica)
    made = card.checkpoint(end=True)
    assert (made.outcome, made.reason) == ("ended", None)
    assert made.answer["bytes"] < 64 << 20

    result = card.restore(place(), gpu=1)
    replica = restored(card, result)

    assert answer(replica) == before
    assert replica.ask("POST", "/increment") == {"count": 4}
    assert card.cuda_state(replica.pid) == "running"
    assert [each.phase for each in result.phases] == [row.phase.value for row in RESTORE.rows]
    assert card.leases() == 0
    moved = [line for line in card.stand_in.calls() if line.startswith("restore ")]
    assert moved == [f"restore {replica.pid} {raw(GPUS[0].uuid)}>{raw(GPUS[1].uuid)}"]
    checks = {check["what"]: check["got"] for check in result.phases[-1].details["checks"]}
    assert checks["weights' digest"] == digest_before(card)


def raw(uuid: str) -> str:
    return uuid.removeprefix("GPU-").replace("-", "")


def digest_before(card: Card) -> str:
    from restore_driver.artifact.manifest import load_manifest

    return str(load_manifest(card.artifact).proof.weights_digest)


def test_a_replica_that_is_left_running_takes_its_weights_back(ready: Ready) -> None:
    card = ready()
    before = answer(card.replica)
    made = card.checkpoint(end=False)

    assert [each.phase for each in made.phases] == [row.phase.value for row in CHECKPOINT.rows]
    assert (made.outcome, card.cuda_state(), card.leases()) == ("published", "running", 0)
    assert answer(card.replica) == before


def test_a_dump_that_fails_leaves_the_replica_serving(ready: Ready) -> None:
    """Its CUDA state was in host memory and its weights were gone; all comes back, in reverse order."""
    card = ready()
    before = answer(card.replica)
    request = CheckpointRequest(
        pid=card.replica.pid, artifact=card.artifact, replica=card.spec, deadlines_s={"criu-dump": 0.001}
    )
    result = card.driver.carry_out(request)

    assert (result.outcome, result.phase, result.reason) == ("failed", "criu-dump", "DeadlineExceeded")
    assert result.undone == ("continue-tree", "drop-draft", "restore-cuda", "resume-engine")
    assert result.undo_errors == ()
    assert (card.cuda_state(), answer(card.replica), card.leases()) == ("running", before, 0)
    assert list(card.artifact.parent.iterdir()) == []


def too_little_memory(card: Card, tmp_path: Path) -> Callable[[str, str], None]:
    holder = HolderClient(card.holder)
    token = holder.load("m", 5.0)
    holder.wait(token, 5.0)
    return at("end-of-all", holder.close)


def holder_dies(card: Card, tmp_path: Path) -> Callable[[str, str], None]:
    """After it has promised the weights, while CRIU restores."""

    def kill() -> None:
        holder = HolderClient(card.holder)
        os.kill(holder.status()["pid"], signal.SIGKILL)
        holder.close()

    return at("criu-restore", kill)


def out_of_memory(card: Card, tmp_path: Path) -> Callable[[str, str], None]:
    """In CUDA's restore, of whichever PID it gets."""
    return at("cuda-restore", lambda: fault_all(card, OUT_OF_MEMORY))


def cuda_hangs(card: Card, tmp_path: Path) -> Callable[[str, str], None]:
    return at("cuda-restore", lambda: fault_all(card, "hang"))


def fault_all(card: Card, what: str | int) -> None:
    for entry in (card.stand_in.directory / "processes").iterdir():
        card.stand_in.fault("restore", int(entry.name), what)


def other_weights(card: Card, tmp_path: Path) -> Callable[[str, str], None]:
    """A model of the same name and layout, retrained since."""
    directory = tmp_path / "retrained"
    directory.mkdir()
    new = Weights(directory, seed=2)
    holder = HolderClient(card.holder)
    holder.preload("m", new.files, new.layout, 10.0)
    holder.close()
    return lambda *_: None


def larger_weights(card: Card, tmp_path: Path) -> Callable[[str, str], None]:
    directory = tmp_path / "larger"
    directory.mkdir()
    new = Weights(directory, seed=3, size=4 << 20)
    holder = HolderClient(card.holder)
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
def test_a_restore_that_fails_leaves_nothing_and_asks_for_a_cold_start(
    spoil: Callable[[Card, Path], Callable[[str, str], None]],
    phase: str,
    reason: str,
    ready: Ready,
    place: Place,
    tmp_path: Path,
) -> None:
    card = ready(card_bytes=(512 << 20) + (5 << 20))
    assert card.checkpoint(end=True).outcome == "ended"
    placeholder = place()
    spoiling = spoil(card, tmp_path)
    request_deadline_s = {"cuda-restore": 1.0}
    result = card.restore(placeholder, spoiling, deadlines_s=request_deadline_s)
    spoiling("begin", "end-of-all")

    outcome = "refused" if phase == "weights-load" else "failed"
    assert (result.outcome, result.phase, result.reason) == (outcome, phase, reason), result.detail
    assert result.fallback == "cold-start"
    assert set(placeholder.members()) == {1}
    if reason != "ResumeFailed":
        assert is_clean(card, placeholder)
        assert result.undo_errors == ()


def test_a_dead_holder_is_refused_before_anything_is_touched(ready: Ready, place: Place) -> None:
    card = ready()
    card.checkpoint(end=True)
    holder = HolderClient(card.holder)
    os.kill(holder.status()["pid"], signal.SIGKILL)
    holder.close()
    placeholder = place()
    result = card.restore(placeholder)

    assert (result.phase, result.reason, result.fallback) == ("weights-load", "WeightsFailed", "cold-start")
    assert set(placeholder.members()) == {1}


@pytest.mark.parametrize("phase", [row.phase.value for row in RESTORE.rows if row.phase.value not in ("gate", "lock")])
def test_a_driver_killed_while_restoring_leaves_nothing(phase: str, ready: Ready, place: Place) -> None:
    card = ready()
    card.checkpoint(end=True)
    placeholder = place()
    request = RestoreRequest(artifact=card.artifact, placeholder_pid=placeholder.pid, gpus=(GPUS[0].uuid,))
    killed_driver(card, request, phase, placeholder=placeholder)
    recovered = card.another_driver().recover()

    assert [each.errors for each in recovered] == [()]
    assert is_clean(card, placeholder)
    again = card.restore(placeholder)
    if phase in ("seal", "weights-load"):  # nothing was touched by then
        assert again.outcome == "proven"
    else:
        assert (again.outcome, again.reason) == ("refused", "AttemptedBefore")


def test_two_restores_at_once_on_a_card_with_room_for_one(ready: Ready, place: Place) -> None:
    """The holder's promises count: one is proven, the other refused, with its placeholder clean."""
    card = ready(card_bytes=(512 << 20) + (5 << 20))
    card.checkpoint(end=True)
    placeholders = [place(), place()]
    for placeholder in placeholders:  # clones bind the same path, each in a directory of its own
        own = ["nsenter", "--target", str(placeholder.pid), "--mount", "mount", "-t", "tmpfs", "tmpfs"]
        subprocess.run([*own, str(card.control.parent)], check=True)
    begun = threading.Barrier(2)
    results: list[Result] = []

    def wait_for_both() -> None:
        begun.wait(10.0)

    def one(placeholder: Placeholder) -> None:
        results.append(card.restore(placeholder, at("weights-load", wait_for_both)))

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
    assert card.leases() == 0
    eventually(lambda: all(proc.is_alive(placeholder.pid) for placeholder in placeholders), "the placeholders")
