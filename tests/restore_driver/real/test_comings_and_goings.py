"""Processes of a replica that come and go while it is checkpointed: those that exist at the dump are dumped, no more.

Engines have compile workers, data loaders, tokenizers; any of them may end at any line of a checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_driver.attempt.phases import CHECKPOINT
from restore_driver.driver import Driver
from restore_driver.host import proc
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from tests.restore_driver.real.conftest import Place
from tests.restore_driver.trees import kill_tree
from tests.restore_driver.waiting import eventually

FAMILY = """
import os, signal, sys, time
if sys.argv[1] == "reaps":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            time.sleep(1000)
def bear(*_):
    if os.fork() == 0:
        while True:
            time.sleep(1000)
signal.signal(signal.SIGUSR1, bear)
while True:
    time.sleep(1000)
"""


@pytest.fixture(params=["reaps", "leaves zombies"])
def family(request: pytest.FixtureRequest) -> Iterator[int]:
    """A parent with three children; returns the parent's PID."""
    child = subprocess.Popen(
        [os.path.realpath(sys.executable), "-c", FAMILY, str(request.param)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    eventually(lambda: len(living(child.pid)) == 4, "the children")
    yield child.pid
    kill_tree(child.pid)
    child.wait()


def living(pid: int) -> list[int]:
    return [member for member in proc.tree(pid) if proc.is_alive(member)]


@pytest.mark.parametrize("phase", ["record", "quiesce", "cuda-lock", "cuda-checkpoint", "draft", "criu-dump"])
def test_a_child_that_ends_meanwhile_is_not_missed(
    phase: str, family: int, place: Place, state: Path, tmp_path: Path
) -> None:
    """It dies as a phase begins; the checkpoint goes on, and the restored family has one member less."""
    victim = proc.tree(family)[-1]

    def kill(event: str, begun: str) -> None:
        if (event, begun) == ("begin", phase):
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: not proc.is_alive(victim), "the child's end")

    driver = Driver(open_toolset(state))
    made = driver.carry_out(CheckpointRequest(pid=family, artifact=tmp_path / "a", replica=ReplicaSpec()), kill)
    restored = driver.carry_out(RestoreRequest(artifact=tmp_path / "a", placeholder_pid=place().pid))

    assert (made.outcome, made.reason) == ("published", None)
    assert len(living(family)) == 3
    assert restored.outcome == "proven"
    assert len(living(restored.answer["host_pid"])) == 3


def test_a_child_that_was_born_meanwhile_is_dumped_and_goes_on(
    family: int, place: Place, state: Path, tmp_path: Path
) -> None:
    def bear(event: str, begun: str) -> None:
        if (event, begun) == ("begin", "criu-dump"):
            os.kill(family, signal.SIGUSR1)
            eventually(lambda: len(living(family)) == 5, "the new child")

    driver = Driver(open_toolset(state))
    made = driver.carry_out(CheckpointRequest(pid=family, artifact=tmp_path / "a", replica=ReplicaSpec()), bear)
    restored = driver.carry_out(RestoreRequest(artifact=tmp_path / "a", placeholder_pid=place().pid))

    assert (made.outcome, restored.outcome) == ("published", "proven")
    assert len(living(restored.answer["host_pid"])) == 5
    assert all(state_of(pid) != "T" for pid in living(family))


def test_replica_that_ends_during_a_checkpoint_is_lost(family: int, state: Path, tmp_path: Path) -> None:
    def kill(event: str, begun: str) -> None:
        if (event, begun) == ("begin", "criu-dump"):
            kill_tree(family)
            eventually(lambda: not proc.is_alive(family), "its end")

    driver = Driver(open_toolset(state))
    result = driver.carry_out(
        CheckpointRequest(pid=family, artifact=tmp_path / "artifacts" / "a", replica=ReplicaSpec()), kill
    )

    assert (result.outcome, result.phase, result.reason) == ("failed", "criu-dump", "ReplicaLost")
    assert list((tmp_path / "artifacts").iterdir()) == []


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_every_phase_before_the_dump_stands_in_the_list_above() -> None:
    names = [row.phase.value for row in CHECKPOINT.rows]
    before = names[names.index("record") : names.index("criu-dump") + 1]

    assert before == ["record", "quiesce", "cuda-lock", "cuda-checkpoint", "draft", "criu-dump"]
