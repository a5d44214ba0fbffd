"""Asking again: after a success, after a refusal, after a death, and while somebody else is at work."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from restore_driver.artifact.seal import seal_path, verify_and_seal
from restore_driver.attempt.journal import Journal
from restore_driver.driver import Driver
from restore_driver.host import proc
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from restore_driver.wire.result import Result
from tests.restore_driver.real.conftest import Place, Replica, Start
from tests.restore_driver.waiting import eventually


@pytest.fixture
def server(start: Start) -> Replica:
    """It has counted to three."""
    server = start()
    for _ in range(3):
        server.ask("POST", "/increment")
    return server


@pytest.fixture
def driver(state: Path) -> Driver:
    return Driver(open_toolset(state))


def ended(driver: Driver, server: Replica, artifact: Path) -> Path:
    request = CheckpointRequest(pid=server.pid, artifact=artifact, replica=ReplicaSpec(), leave_running=False)
    assert driver.carry_out(request).outcome == "ended"
    return artifact


def test_repeated_request_of_a_proven_restore_returns_the_same_replica(
    server: Replica, driver: Driver, place: Place, tmp_path: Path
) -> None:
    """Whoever lost the first answer must not start a second engine."""
    artifact = ended(driver, server, tmp_path / "a")
    placeholder = place()
    request = RestoreRequest(artifact=artifact, placeholder_pid=placeholder.pid, pod_uid="pod-1")
    first, second = driver.carry_out(request), driver.carry_out(request)

    assert (first.outcome, second.outcome, second.fallback) == ("proven", "proven", None)
    assert second.answer == first.answer

    os.kill(first.answer["host_pid"], signal.SIGKILL)
    eventually(lambda: set(placeholder.members()) == {1}, "its end, and its child's")
    third = driver.carry_out(request)
    assert (third.outcome, third.reason, third.fallback) == ("refused", "AttemptedBefore", "cold-start")


def test_request_refused_with_nothing_touched_may_be_repeated(
    server: Replica, driver: Driver, place: Place, tmp_path: Path
) -> None:
    """A missing seal is fixed by verifying; the attempt is not used up by having been too early."""
    artifact = ended(driver, server, tmp_path / "a")
    seal_path(artifact).unlink()
    request = RestoreRequest(artifact=artifact, placeholder_pid=place().pid, pod_uid="pod-1")
    refused = driver.carry_out(request)
    verify_and_seal(artifact)

    assert (refused.outcome, refused.phase, refused.reason) == ("refused", "seal", "SealBroken")
    assert driver.carry_out(request).outcome == "proven"


def test_one_restore_at_a_time_in_a_placeholder(
    server: Replica, driver: Driver, place: Place, start: Start, tmp_path: Path
) -> None:
    """Another snapshot for the same placeholder waits its turn, and can't be killed by the first one's undo."""
    first, second = ended(driver, server, tmp_path / "a"), ended(driver, start(), tmp_path / "b")
    placeholder = place()
    meanwhile: list[Result] = []

    def ask(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "criu-restore"):
            request = RestoreRequest(artifact=second, placeholder_pid=placeholder.pid, pod_uid="pod-2")
            meanwhile.append(driver.carry_out(request))

    result = driver.carry_out(RestoreRequest(artifact=first, placeholder_pid=placeholder.pid, pod_uid="pod-1"), ask)

    assert result.outcome == "proven"
    assert [(each.outcome, each.reason, each.fallback) for each in meanwhile] == [("refused", "Busy", None)]


def test_an_artifact_that_is_replaced_meanwhile_is_restored_as_it_was(
    server: Replica, driver: Driver, place: Place, start: Start, tmp_path: Path
) -> None:
    """What was sealed and looked at is what CRIU reads, whatever bears its name by then."""
    artifact = ended(driver, server, tmp_path / "artifacts" / "a")
    younger = start()

    def replace(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "place-files"):
            ended(driver, younger, artifact)

    result = driver.carry_out(RestoreRequest(artifact=artifact, placeholder_pid=place().pid), replace)
    assert result.ok, result.detail
    old = Replica(result.answer["host_pid"], server.port, server.directory)
    assert (result.outcome, old.ask("GET", "/count")) == ("proven", {"count": 3})

    result = driver.carry_out(RestoreRequest(artifact=artifact, placeholder_pid=place().pid))
    new = Replica(result.answer["host_pid"], younger.port, younger.directory)
    assert (result.outcome, new.ask("GET", "/count")) == ("proven", {"count": 0})


def test_recovery_leaves_a_later_process_of_the_same_pid_alone(driver: Driver, place: Place, tmp_path: Path) -> None:
    """The placeholder is gone, and its PID and its namespace's number are another's now: an innocent one's."""
    innocent = place()
    (tmp_path / "kept").write_text("kept")
    journal = Journal.open(driver.tools.state.attempts, "restore", "restore-pod-1-0123")
    journal.facts = {
        "placeholder_pid": innocent.pid,
        "placeholder_ticks": proc.start_ticks(innocent.pid) - 1,
        "namespace": proc.namespace_id(innocent.pid, "pid"),
        "present": {},
        "placed": {str(tmp_path / "kept").lstrip("/"): False},
        "place_key": "restore-pod-1-0123",
    }
    journal.begin("place-files")
    journal.begin("criu-restore")
    journal.close(forget=False)
    recovered = driver.recover()

    assert [(each.attempt, each.errors) for each in recovered] == [("restore-pod-1-0123", ())]
    assert proc.is_alive(innocent.pid)
    assert (tmp_path / "kept").read_text() == "kept"
