"""The agent and the weights holder, as they really serve, and as they are when they don't."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_driver.doctor import Finding, Verdict
from tests.restore_driver.doctor.conftest import ROOT, doctor
from tests.restore_driver.real.conftest import criu

__all__ = ["criu"]

Serve = Iterator[subprocess.Popen[str]]


@pytest.fixture
def holder(tmp_path: Path) -> Serve:
    """One with a card of memory."""
    yield from served("holder", "serve", "--socket", tmp_path / "holder.sock", "--budget", "40G", "--device", "host:8G")


@pytest.fixture
def agent(tmp_path: Path) -> Serve:
    """One with a state directory of its own."""
    yield from served("agent", "--state", tmp_path / "state")


def served(*words: str | Path) -> Serve:
    """A resident, once it is ready; ended after the test."""
    child = subprocess.Popen(
        [sys.executable, "-m", "restore_driver", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline().startswith("ready")
    yield child
    child.terminate()
    child.communicate()


def test_a_holder_that_answers_says_what_it_holds(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    seen = doctor("--holder", tmp_path / "holder.sock")

    assert seen.findings["holder"] == Finding(
        "holder",
        Verdict.OK,
        f"process {holder.pid} holds 0 models, 0 of 42,949,672,960 bytes; 8,589,934,592 bytes of its card are free",
    )


def test_a_holder_that_was_named_and_is_not_there_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    seen = doctor("--holder", path)

    assert seen.exit_code == 1
    assert seen.findings["holder"] == Finding(
        "holder",
        Verdict.MISSING,
        f"the weights holder at {path}: [Errno 2] No such file or directory",
        f"forethaw holder serve --socket {path} --budget 40G",
    )


def test_an_agent_that_serves_is_named_and_one_that_died_is_broken(
    agent: subprocess.Popen[str], tmp_path: Path
) -> None:
    alive = doctor("--state", tmp_path / "state")
    stale = tmp_path / "stale"
    stale.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(stale / "agent.sock"))
    dead = doctor("--state", stale)

    assert alive.findings["agent"].verdict is Verdict.OK
    assert alive.findings["agent"].detail.startswith(f"process {agent.pid} serves at {tmp_path}/state/agent.sock, with")
    assert dead.findings["agent"] == Finding(
        "agent",
        Verdict.BROKEN,
        f"the agent at {stale}/agent.sock can't be asked: [Errno 111] Connection refused",
        "start `forethaw agent` again; it replaces a socket that nobody serves",
    )
