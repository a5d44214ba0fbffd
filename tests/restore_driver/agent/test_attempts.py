"""What an agent has begun it ends: whether its caller stays, whether it is asked to stop, and, by the next one, after
it was killed. A known request that is not answered holds each attempt at the place that the test is about."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from restore_driver.agent.client import ask, serves, status
from restore_driver.artifact.seal import check_seal
from restore_driver.attempt.phases import CHECKPOINT
from restore_driver.placeholder.create import Placeholder
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from restore_driver.wire.result import Result
from tests.restore_driver.agent.conftest import Oracle, RunningAgent, Sleeper, StartAgent, is_there
from tests.restore_driver.real.conftest import Place
from tests.restore_driver.waiting import eventually

PATIENCE_S = 30.0


def checkpoint(pid: int, artifact: Path, oracle: Oracle) -> CheckpointRequest:
    return CheckpointRequest(pid=pid, artifact=artifact, replica=oracle.replica)


def test_request_is_carried_out_and_each_phase_is_reported(
    start_agent: StartAgent, sleeper: Sleeper, oracle: Oracle, tmp_path: Path
) -> None:
    """Begin and end of each phase in the table's order, then the result, and nothing more."""
    agent, pid, reported = start_agent(), sleeper(), list[tuple[str, str]]()
    oracle.gate.set()
    request = checkpoint(pid, tmp_path / "snapshot", oracle)
    result = ask(agent.path, request, PATIENCE_S, lambda event, phase: reported.append((event, phase)))
    raw = agent.says((checkpoint(pid, tmp_path / "other", oracle).model_dump_json() + "\n").encode())

    phases = [row.phase.value for row in CHECKPOINT.rows]
    assert (result.outcome, [time.phase for time in result.phases]) == ("published", phases)
    assert reported == [(event, phase) for phase in phases for event in ("begin", "end")]
    assert [(line["event"], line["phase"]) for line in raw[:-1]] == reported
    assert Result.model_validate(raw[-1]["result"]).outcome == "published"
    assert check_seal(tmp_path / "snapshot").process.pids == (pid,)
    assert is_there(pid)


def test_a_caller_that_hangs_up_does_not_end_the_attempt(
    start_agent: StartAgent, sleeper: Sleeper, oracle: Oracle, tmp_path: Path
) -> None:
    agent = start_agent()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(str(agent.path))
        caller.sendall((checkpoint(sleeper(), tmp_path / "snapshot", oracle).model_dump_json() + "\n").encode())
        oracle.wait_until_asked()
    at_work = status(agent.path)["attempts"]
    oracle.gate.set()
    eventually(lambda: status(agent.path)["attempts"] == 0, "the attempt's end")

    assert at_work == 1
    assert check_seal(tmp_path / "snapshot").name == "snapshot"


def test_two_requests_at_once_are_both_carried_out(
    start_agent: StartAgent, sleeper: Sleeper, oracle: Oracle, tmp_path: Path
) -> None:
    """Both are at work at the same time, each hears of its own; a second one on the same replica is turned away."""
    agent, pids = start_agent(), (sleeper(), sleeper())
    with ThreadPoolExecutor() as pool:
        asking = [
            pool.submit(ask, agent.path, checkpoint(pid, tmp_path / str(pid), oracle), PATIENCE_S) for pid in pids
        ]
        oracle.wait_until_asked(times=2)
        third = ask(agent.path, checkpoint(pids[0], tmp_path / "third", oracle), PATIENCE_S)
        oracle.gate.set()
        results = [each.result() for each in asking]

    assert [result.outcome for result in results] == ["published", "published"]
    assert [check_seal(tmp_path / str(pid)).process.root_pid for pid in pids] == list(pids)
    assert (third.outcome, third.reason) == ("refused", "Busy")
    assert not (tmp_path / "third").exists()


def test_sigterm_waits_for_the_attempt_at_work(
    start_agent: StartAgent, sleeper: Sleeper, oracle: Oracle, tmp_path: Path
) -> None:
    """Nobody new is heard; the caller at work gets its result; then the agent ends well and its socket is gone."""
    agent = start_agent()
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, agent.path, checkpoint(sleeper(), tmp_path / "snapshot", oracle), PATIENCE_S)
        oracle.wait_until_asked()
        agent.process.send_signal(signal.SIGTERM)
        eventually(lambda: not serves(agent.path), "the end of its listening")
        waiting = agent.process.poll() is None and not asking.done()
        oracle.gate.set()
        result = asking.result()

    assert waiting
    assert result.outcome == "published"
    assert (agent.wait(), agent.sentences()) == (0, [])
    assert not agent.path.exists()
    assert check_seal(tmp_path / "snapshot").name == "snapshot"


def begin_restore(
    agent: RunningAgent, sleeper: Sleeper, oracle: Oracle, place: Place, artifact: Path
) -> tuple[RestoreRequest, socket.socket]:
    """A checkpoint, and a restore of it that stands before its proof; on this machine's network, where we answer."""
    oracle.gate.set()
    request = checkpoint(sleeper(), artifact, oracle).model_copy(update={"leave_running": False})
    assert ask(agent.path, request, PATIENCE_S).outcome == "ended"
    oracle.wait_until_asked()
    oracle.gate.clear()
    restore = RestoreRequest(artifact=artifact, placeholder_pid=place(network="host").pid, pod_uid="pod-1")
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.connect(str(agent.path))
    caller.sendall((restore.model_dump_json() + "\n").encode())
    oracle.wait_until_asked()
    return restore, caller


def test_an_agent_killed_in_the_middle_is_cleaned_up_after_by_the_next(
    start_agent: StartAgent, sleeper: Sleeper, oracle: Oracle, place: Place, tmp_path: Path
) -> None:
    """Restored, not yet proven, and then kill -9: the next one empties the placeholder, says so, and does not retry."""
    first = start_agent()
    restore, caller = begin_restore(first, sleeper, oracle, place, tmp_path / "snapshot")
    with caller:
        placeholder = Placeholder(restore.placeholder_pid)
        first.process.kill()
        first.wait()
        oracle.gate.set()
        heard = [json.loads(line) for line in caller.makefile()]
    left = set(placeholder.members())
    second = start_agent()
    emptied = set(placeholder.members())
    again = ask(second.path, restore, PATIENCE_S)
    second.process.send_signal(signal.SIGTERM)
    code = second.wait()
    [rolled_back] = second.events("attempt_rolled_back")

    assert heard[-1] == {"event": "begin", "phase": "prove"}  # and no result
    assert (len(left), emptied) == (2, {1})
    assert code == 0
    assert rolled_back["attempt"].startswith("restore-pod-1-")
    assert (rolled_back["reason"], rolled_back["level"]) == ("DriverDied", "info")
    assert {"kill-restored", "take-files-back"} <= set(rolled_back["undone"])
    assert (again.outcome, again.reason, "DriverDied" in (again.detail or "")) == ("refused", "AttemptedBefore", True)
