"""Findings for a serving, a missing and a stale agent and weights holder."""

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
    """A holder with host memory in place of a GPU."""
    yield from served("holder", "serve", "--socket", tmp_path / "holder.sock", "--budget", "40G", "--device", "host:8G")


@pytest.fixture
def agent(tmp_path: Path) -> Serve:
    """An agent with a state directory of its own."""
    yield from served("agent", "--state", tmp_path / "state")


def served(*words: str | Path) -> Serve:
    """Start a resident process, yield once it is ready, and end it afterwards."""
    child = subprocess.Popen(
        [sys.executable, "-m", "restore_driver", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline().startswith("ready")
    yield child
    child.terminate()
    child.communicate()


def test_a_serving_holder_is_reported_with_its_contents(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    seen = doctor("--holder", tmp_path / "holder.sock")

    assert seen.findings["holder"] == Finding(
        "holder",
        Verdict.OK,
        f"process {holder.pid} holds 0 models, 0 of 42,949,672,960 bytes; 8,589,934,592 bytes of its GPU are free",
    )


def test_a_named_holder_that_does_not_exist_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    seen = doctor("--holder", path)

    assert seen.exit_code == 1
    assert seen.findings["holder"] == Finding(
        "holder",
        Verdict.MISSING,
        f"the weights holder at {path}: [Errno 2] No such file or directory",
        f"forethaw holder serve --socket {path} --budget 40G",
    )


def test_a_serving_agent_is_ok_and_a_stale_socket_is_broken(agent: subprocess.Popen[str], tmp_path: Path) -> None:
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
        f"the agent at {stale}/agent.sock cannot be asked: [Errno 111] Connection refused",
        "start `forethaw agent` again; it replaces a stale socket",
    )
