"""The agent's door: what it answers, what it refuses, and by which name; only root gets in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_driver.agent.client import serves, status
from restore_driver.agent.limits import LONGEST_LINE_BYTES
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.agent.conftest import RunningAgent, StartAgent
from tests.restore_driver.real.conftest import ROOT


def test_status_reports_pid_version_and_tools(agent: RunningAgent) -> None:
    said = status(agent.path)

    assert set(said) == {"api_version", "pid", "criu", "cuda", "cuda_missing", "gpus", "attempts"}
    assert (said["pid"], said["attempts"]) == (agent.process.pid, 0)
    assert said["criu"].startswith("4.")


def error_of(answers: list[dict[str, Any]]) -> tuple[str, str]:
    [answer] = answers
    assert set(answer) == {"error"} and set(answer["error"]) == {"reason", "detail", "hint"}
    return answer["error"]["reason"], answer["error"]["detail"]


CHECKPOINT = {"do": "checkpoint", "pid": 12, "artifact": "/a", "replica": {}}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'"status"', "is not a JSON object"),
        (b"{}", "do"),
        (b'{"do": "dance"}', "'dance'"),
        (b'{"do": 7}', "do"),
        (json.dumps({**CHECKPOINT, "pid": "twelve"}).encode(), "checkpoint.pid: "),
        (json.dumps({**CHECKPOINT, "pid": 1}).encode(), "checkpoint.pid: "),
        (json.dumps({**CHECKPOINT, "replica": {"engine": {"kind": "none", "x": 1}}}).encode(), "engine.none.x: "),
        (json.dumps({**CHECKPOINT, "surprise": 1}).encode(), "checkpoint.surprise: "),
        (json.dumps({**CHECKPOINT, "deadlines_s": {"tea": 1}}).encode(), "'tea'"),
        (json.dumps({**CHECKPOINT, "deadlines_s": {"gate": 0}}).encode(), "checkpoint.deadlines_s.gate: "),
        (b'{"do": "restore", "artifact": "/a"}', "restore.placeholder_pid: "),
        (b'{"do": "status", "api_version": "forethaw.dev/v9"}', "this driver speaks API version forethaw.dev/v1alpha1"),
        (b'{"do": "status", "surprise": 1}', "surprise: "),
        (b'{"do": "status", "do": "status"}', "the key 'do' is there twice"),
        (b'{"do": "restore", "artifact": "/a", "placeholder_pid": 7, "pod_uid": "../x"}', "restore.pod_uid: "),
    ],
)
def test_what_is_no_request_is_refused_with_the_field(sent: bytes, said: str, agent: RunningAgent) -> None:
    reason, detail = error_of(agent.says(sent + b"\n"))

    assert (reason, said in detail, detail[0] != ":") == ("RequestInvalid", True, True), detail
    assert status(agent.path)["pid"] == agent.process.pid


def test_a_line_without_end_is_refused_as_soon_as_it_is_too_long(agent: RunningAgent) -> None:
    reason, detail = error_of(agent.says(b"x" * (LONGEST_LINE_BYTES + 1)))

    assert (reason, detail) == ("RequestInvalid", "a line is longer than 1,048,576 bytes")


def test_the_longest_line_is_read_however_it_arrives(agent: RunningAgent) -> None:
    [answer] = agent.says(b'{"do": "status"}'.ljust(LONGEST_LINE_BYTES) + b"\n")

    assert answer["result"]["pid"] == agent.process.pid


def test_client_that_disconnects_before_its_request_is_dropped(agent: RunningAgent) -> None:
    assert agent.says(b"", hang_up=True) == []
    assert agent.says(b'{"do": "status"', hang_up=True) == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(agent.path))
        assert status(agent.path)["attempts"] == 0  # and who says nothing is at no work


@settings(max_examples=60, deadline=None)
@given(line=st.binary(max_size=80).filter(lambda line: b"\n" not in line))
def test_no_line_gets_anything_but_an_answer(line: bytes, agent: RunningAgent) -> None:
    assert error_of(agent.says(line + b"\n"))[0] == "RequestInvalid"
    assert agent.process.poll() is None


STRANGER = """
import os, socket, sys
os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.settimeout(20)
    connection.connect(sys.argv[1])
    print(connection.makefile().readline())
"""


def stranger(path: Path) -> subprocess.CompletedProcess[str]:
    """Another user connects, without our own client's scruples; he is not even listened to."""
    argv = [sys.executable, "-I", "-c", STRANGER, str(path)]
    return subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=30, check=False)


def test_another_user_can_neither_connect_nor_get_an_answer(agent: RunningAgent) -> None:
    """The socket is root's alone; were it not, the kernel says who connected."""
    shut_out = stranger(agent.path)
    agent.path.chmod(0o666)
    let_in = stranger(agent.path)
    agent.path.chmod(0o600)

    assert "Permission denied" in shut_out.stderr
    assert let_in.returncode == 0, let_in.stderr
    assert error_of([json.loads(let_in.stdout)]) == ("NotTrusted", "only root may use this agent")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("socket of another", "agent.sock belongs to user 1000"),
        ("socket that others may write", "agent.sock may be written by others"),
        ("directory of another", "belongs to user 1000"),
        ("directory that others may write", "may be written by others"),
        ("link", "agent.sock is a symbolic link"),
        ("nothing", "agent.sock cannot be examined"),
    ],
)
def test_client_refuses_an_agent_that_is_not_roots(broken: str, said: str, tmp_path: Path) -> None:
    """... and does not even connect to what another could have put there."""
    directory = tmp_path / "directory"
    directory.mkdir(mode=0o755)
    path = directory / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.0)
        path.chmod(0o600)
        if broken == "link":
            path.rename(directory / "real.sock")
            path.symlink_to("real.sock")
        elif broken == "nothing":
            path.unlink()
        elif broken.endswith("another"):
            os.chown(path if broken.startswith("socket") else directory, 1000, 1000)
        else:
            (path if broken.startswith("socket") else directory).chmod(0o777)
        with pytest.raises(DriverError, match=said) as caught:
            status(path)
        with pytest.raises(BlockingIOError):
            listener.accept()

    assert caught.value.reason is Reason.NOT_TRUSTED


def test_an_agent_that_ends_before_its_result_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "agent.sock"))
        (tmp_path / "agent.sock").chmod(0o600)
        with pytest.raises(DriverError) as not_listening:
            status(tmp_path / "agent.sock")
        listener.listen()
        os.set_blocking(listener.fileno(), False)
        with pytest.raises(DriverError) as silent:
            status(tmp_path / "agent.sock", deadline_s=0.1)

    assert (not_listening.value.reason, silent.value.reason) == (Reason.DRIVER_DIED, Reason.DEADLINE_EXCEEDED)
    assert "cannot be asked" in not_listening.value.detail and "did not answer within 0.1 s" in silent.value.detail


def test_a_stale_socket_is_replaced_and_a_living_agents_is_not(start_agent: StartAgent) -> None:
    """One is killed, its socket stays; the next takes its place; a third is turned away, and the second serves on."""
    first = start_agent()
    first.process.kill()
    first.wait()
    stale = first.path.exists(), serves(first.path)
    second = start_agent()
    third = start_agent()
    code = third.wait()

    assert stale == (True, False)
    assert (code, third.sentences()[-1]) == (
        2,
        f"Busy: an agent serves {second.path} already; stop it, or give another --socket",
    )
    assert status(second.path)["pid"] == second.process.pid


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_removed(kind: str, start_agent: StartAgent, tmp_path: Path) -> None:
    """A wrong --socket never costs a file."""
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    before = os.lstat(path).st_ino
    agent = start_agent("precious")
    code, said = agent.wait(), agent.log.read_text()

    assert (code, "RequestInvalid" in said, "Traceback" in said) == (2, True, False), said
    assert os.lstat(path).st_ino == before


def test_a_directory_that_others_may_write_takes_no_socket(start_agent: StartAgent, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    agent = start_agent("open/agent.sock")

    assert (agent.wait(), "NotTrusted" in agent.log.read_text()) == (2, True)
    assert list((tmp_path / "open").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_agent_ends_at_once_and_takes_its_socket_along(number: signal.Signals, start_agent: StartAgent) -> None:
    agent = start_agent()
    agent.process.send_signal(number)

    assert (agent.wait(), agent.sentences()) == (0, [])
    assert not agent.path.exists()


def test_the_command_line_is_heard_by_the_agent(agent: RunningAgent, tmp_path: Path) -> None:
    """A refusal's words and exit code are the agent's own."""
    argv = [sys.executable, "-m", "restore_driver", "checkpoint", "4194303", str(tmp_path / "a")]
    argv += ["--agent", str(agent.path), "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert json.loads(done.stdout)["reason"] == "ReplicaLost"
