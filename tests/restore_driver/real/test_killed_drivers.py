"""A driver that dies or is interrupted at any phase: what it had begun is taken back, and what was well stays so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from restore_driver.attempt.phases import CHECKPOINT, CHECKPOINT_AND_END, RESTORE
from restore_driver.driver import Driver
from restore_driver.host import proc
from restore_driver.placeholder.create import Placeholder
from restore_driver.toolset import open_toolset
from restore_driver.wire.phase import Phase
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from tests.restore_driver import trees
from tests.restore_driver.real.conftest import ROOT, Place, Start
from tests.restore_driver.waiting import eventually

KILLER = """
import os, signal, sys
from pathlib import Path
from pydantic import TypeAdapter
from restore_driver.driver import Driver
from restore_driver.wire.requests import AnyRequest
from restore_driver.toolset import open_toolset

state, request, event_wanted, phase_wanted = sys.argv[1:5]

def kill(event, phase):
    if (event, phase) == (event_wanted, phase_wanted):
        os.kill(os.getpid(), signal.SIGKILL)

Driver(open_toolset(Path(state))).carry_out(TypeAdapter(AnyRequest).validate_json(request), kill)
"""


def killed_driver(request: CheckpointRequest | RestoreRequest, state: Path, event: str, phase: str) -> None:
    """A driver of its own process that dies by SIGKILL as a phase begins or has just ended."""
    argv = [sys.executable, "-c", KILLER, str(state), request.model_dump_json(), event, phase]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


@pytest.mark.parametrize("phase", [row.phase.value for row in RESTORE.rows])
@pytest.mark.parametrize("event", ["begin", "end"])
def test_kill_9_of_the_driver_in_a_restore_leaves_an_empty_placeholder(
    event: str, phase: str, snapshot: Path, place: Place, state: Path, clean: Callable[[Placeholder], None]
) -> None:
    placeholder = place()
    request = RestoreRequest(artifact=snapshot, placeholder_pid=placeholder.pid, pod_uid="pod-1")
    killed_driver(request, state, event, phase)
    Driver(open_toolset(state)).recover()

    clean(placeholder)
    again = Driver(open_toolset(state)).carry_out(request)
    if phase in ("gate", "lock", "seal", "weights-load"):  # nothing was touched by then
        assert again.outcome == "proven"
    else:
        assert (again.outcome, again.reason) == ("refused", "AttemptedBefore")
        assert "DriverDied" in (again.detail or "")


@pytest.mark.parametrize("phase", [row.phase.value for row in CHECKPOINT_AND_END.rows[:-1]])
def test_kill_9_of_the_driver_in_a_checkpoint_leaves_the_server_serving(
    phase: str, start: Start, state: Path, tmp_path: Path
) -> None:
    """Old artifact or new one, never neither; and the server is not ended before its artifact is there."""
    server = start()
    artifacts = tmp_path / "artifacts"
    request = CheckpointRequest(
        pid=server.pid, artifact=artifacts / "snapshot", replica=ReplicaSpec(), leave_running=False
    )
    killed_driver(request, state, "begin", phase)
    Driver(open_toolset(state)).recover()

    assert server.ask("POST", "/increment")["count"] == 1
    assert [path.name for path in artifacts.glob("*")] == []
    assert Driver(open_toolset(state)).carry_out(request).outcome == "ended"


@pytest.mark.parametrize(("event", "phase"), [("end", "publish"), ("begin", "end-source"), ("end", "end-source")])
def test_kill_9_once_it_is_published_leaves_the_new_artifact(
    event: str, phase: str, start: Start, place: Place, state: Path, tmp_path: Path
) -> None:
    server = start()
    artifact = tmp_path / "artifacts" / "snapshot"
    request = CheckpointRequest(pid=server.pid, artifact=artifact, replica=ReplicaSpec(), leave_running=False)
    killed_driver(request, state, event, phase)
    Driver(open_toolset(state)).recover()

    assert proc.is_alive(server.pid) == (event == "begin" or phase == "publish")
    if proc.is_alive(server.pid):
        assert server.answers()  # and does not write: its open file must stay as the image knows it
        server.end()
    assert (
        Driver(open_toolset(state)).carry_out(RestoreRequest(artifact=artifact, placeholder_pid=place().pid)).outcome
        == "proven"
    )


@pytest.mark.parametrize(
    ("event", "phase"), [("begin", "continue"), ("end", "continue"), ("end", "compact"), ("end", "publish")]
)
def test_kill_9_around_the_going_on_leaves_the_server_serving(
    event: str, phase: str, start: Start, state: Path, tmp_path: Path
) -> None:
    server = start()
    artifact = tmp_path / "artifacts" / "snapshot"
    request = CheckpointRequest(pid=server.pid, artifact=artifact, replica=ReplicaSpec())
    killed_driver(request, state, event, phase)
    Driver(open_toolset(state)).recover()

    assert server.ask("POST", "/increment")["count"] == 1
    assert artifact.exists() == (phase == "publish")
    assert [path for path in artifact.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("moment", ["attached", "writing pages"])
def test_kill_9_while_criu_dumps_leaves_the_server_serving(
    moment: str, start: Start, state: Path, tmp_path: Path
) -> None:
    """Not between phases but in the middle of CRIU's own work, with its parasite in the server: CRIU is stopped there,
    the driver killed, and CRIU let go on."""
    server = start()
    artifacts = tmp_path / "artifacts"
    request = CheckpointRequest(pid=server.pid, artifact=artifacts / "snapshot", replica=ReplicaSpec())
    argv = [sys.executable, "-c", KILLER, str(state), request.model_dump_json(), "never", "never"]

    def reached() -> bool:
        return moment == "attached" or any(artifacts.glob(".*/images/pages-*.img"))

    driver = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    criu = stop_tracer(server.pid, reached, driver)
    driver.kill()
    driver.wait()
    with suppress(ProcessLookupError):  # it dies with its driver, stopped or not
        os.kill(criu, signal.SIGCONT)
    Driver(open_toolset(state)).recover()

    eventually(lambda: tracer(server.pid) == 0, "CRIU's end")
    assert server.ask("POST", "/increment")["count"] == 1
    assert not (artifacts / "snapshot").exists()
    assert Driver(open_toolset(state)).carry_out(request).outcome == "published"


@pytest.mark.parametrize("phase", ["quiesce", "criu-dump", "capture-files", "publish"])
def test_ctrl_c_undoes_like_any_failure(phase: str, start: Start, state: Path, tmp_path: Path) -> None:
    server = start()
    request = CheckpointRequest(
        pid=server.pid, artifact=tmp_path / "artifacts" / "snapshot", replica=ReplicaSpec(), leave_running=False
    )

    def interrupt(event: str, begun: str) -> None:
        if (event, begun) == ("begin", phase):
            raise KeyboardInterrupt

    result = Driver(open_toolset(state)).carry_out(request, interrupt)

    assert (result.outcome, result.phase, result.reason) == ("failed", phase, "Interrupted")
    assert result.undo_errors == ()
    assert server.ask("POST", "/increment")["count"] == 1
    assert list((tmp_path / "artifacts").iterdir()) == []


def tracer(pid: int) -> int:
    """PID of the process that traces this one; 0 for none."""
    return int(proc.status(pid)["TracerPid"])


def stop_tracer(pid: int, reached: Callable[[], bool], driver: subprocess.Popen[bytes]) -> int:
    """Stop the process that traces this one once `reached` is true, and return its PID.

    A driver that ends first fails the test, since then nothing was caught in the middle.
    """
    while driver.poll() is None:
        criu = tracer(pid)
        if criu and reached():
            os.kill(criu, signal.SIGSTOP)
            eventually(partial(trees.is_stopped, criu), "CRIU's stop")
            if tracer(pid) == criu:
                return criu
        time.sleep(0.001)
    raise AssertionError("the driver ended before its CRIU could be stopped in the middle of a dump")


def test_only_continue_is_in_one_checkpoint_sequence_and_not_in_the_other() -> None:
    """So the phases above, with those of `checkpoint-and-end`, are all that a checkpoint has."""
    leaving, ending = ({row.phase for row in sequence.rows} for sequence in (CHECKPOINT, CHECKPOINT_AND_END))

    assert leaving - ending == {Phase.CONTINUE}
