"""The log of a real agent: one JSON line for each start, attempt, refusal and end, with outcome and reason code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from io import StringIO
from pathlib import Path

import pytest

from restore_driver.agent.client import ask, status
from restore_driver.logs import LogFormat, open_log
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, ParkRequest
from tests.restore_driver.agent.conftest import Oracle, Sleeper, StartAgent
from tests.restore_driver.real.conftest import ROOT

LONG_S = 30.0


def test_one_line_for_each_attempt_with_its_outcome_and_reason(
    start_agent: StartAgent, sleeper: Sleeper, oracle: Oracle, tmp_path: Path
) -> None:
    """One is published, one refused; a status is no attempt; a refused request is no attempt either."""
    agent, pid, artifact = start_agent(), sleeper(), tmp_path / "snapshot"
    oracle.gate.set()
    published = ask(agent.path, CheckpointRequest(pid=pid, artifact=artifact, replica=oracle.replica), LONG_S)
    refused = ask(agent.path, ParkRequest(pid=4194303, replica=ReplicaSpec()), LONG_S)
    status(agent.path)
    agent.says(b'{"do": "dance"}\n')
    agent.process.send_signal(signal.SIGTERM)
    code = agent.wait()
    events = agent.events()

    assert (code, agent.sentences()) == (0, [])
    assert [event["event"] for event in events] == [
        "agent_started",
        "attempt",
        "attempt",
        "request_refused",
        "agent_stopped",
    ]
    assert {event["process"] for event in events} == {"agent"}
    assert {event["pid"] for event in events} == {agent.process.pid}
    moments = [datetime.fromisoformat(event["timestamp"]) for event in events]
    assert moments == sorted(moments)
    first, second, third = events[1:4]
    assert (first["level"], first["do"], first["outcome"], "reason" in first) == (
        "info",
        "checkpoint",
        "published",
        False,
    )
    assert (first["replica_pid"], first["artifact"]) == (pid, str(artifact))
    assert first["took_s"] == pytest.approx(published.total_s, abs=1e-5)
    assert list(first["phases_s"]) == [phase.phase for phase in published.phases]
    assert (second["level"], second["do"], second["outcome"]) == ("warning", "park", "refused")
    assert refused.reason is not None
    assert (second["reason"], second["detail"]) == (refused.reason.value, refused.detail)
    assert (third["level"], third["reason"], "dance" in third["detail"]) == ("warning", "RequestInvalid", True)
    assert (third["client_pid"], third["client_user_id"]) == (os.getpid(), os.geteuid())
    assert events[4]["took_s"] > 0.0


def run(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "restore_driver", *words]
    env = {**os.environ, **(environment or {})}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_one_shot_command_does_not_log(tmp_path: Path) -> None:
    """Even where the variable asks the resident processes for JSON: standard error has the refusal's sentence alone."""
    words = ("checkpoint", "4194303", str(tmp_path / "a"), "--state", str(tmp_path / "state"))
    done = run(*words, environment={"FORETHAW_LOG_FORMAT": "json"})

    assert done.returncode == 2
    assert "event" not in done.stderr and "timestamp" not in done.stderr


def test_the_format_comes_from_the_option_else_from_the_environment(tmp_path: Path) -> None:
    holder = ("holder", "serve", "--socket", str(tmp_path / "socket"), "--budget", "1G", "--device", "host:1G")
    refused = run(*holder, environment={"FORETHAW_LOG_FORMAT": "xml"})

    assert refused.returncode == 2
    assert "xml" in refused.stderr and "text" in refused.stderr


def test_lines_are_for_people_by_default_and_json_on_request() -> None:
    text, lines, silent = StringIO(), StringIO(), StringIO()
    for form, stream in ((LogFormat.TEXT, text), (LogFormat.JSON, lines), (LogFormat.OFF, silent)):
        log = open_log("agent", form, stream)
        log.warning("attempt", reason="Busy", took_s=0.5, detail=None)
        log.info("other", artifact=Path("/a"))

    assert len(text.getvalue().splitlines()) == 2
    assert "[warning  ] attempt" in text.getvalue() and "reason=Busy" in text.getvalue()
    first, second = (json.loads(line) for line in lines.getvalue().splitlines())
    assert {key: first[key] for key in ("event", "level", "reason", "took_s", "process")} == {
        "event": "attempt",
        "level": "warning",
        "reason": "Busy",
        "took_s": 0.5,
        "process": "agent",
    }
    assert ("detail" in first, second["artifact"]) == (False, "/a")
    assert silent.getvalue() == ""
