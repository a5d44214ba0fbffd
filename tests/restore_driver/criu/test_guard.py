"""A running dump completes although its driver is killed, and the replica is resumed after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_driver.criu import guard
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.process import run
from tests.restore_driver.trees import state
from tests.restore_driver.waiting import eventually

ROOT = Path(__file__).parents[3]
DRIVER = """
import sys
from restore_driver.criu import guard
from restore_driver.host.process import run
replica, deadline_s, script = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
run(["sh", "-c", script], deadline_s=deadline_s, enter=lambda: guard.begin(replica, deadline_s))
"""


@pytest.fixture
def replica() -> Iterator[int]:
    child = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], start_new_session=True)
    eventually(lambda: proc.children(child.pid), "its child")
    yield child.pid
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def kill_driver_during_dump(replica: int, deadline_s: float, script: str, begun: Path) -> None:
    """Kill a driver once its dump has begun."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(replica), str(deadline_s), script], cwd=ROOT)
    eventually(lambda: begun.exists() and begun.read_text(), "the dump")
    driver.kill()
    driver.wait()


def test_the_dump_completes_and_the_replica_is_resumed(replica: int, tmp_path: Path) -> None:
    """The SIGCONT of the next driver came before the end of the dump."""
    begun, go, ended = tmp_path / "begun", tmp_path / "go", tmp_path / "ended"
    os.mkfifo(go)
    members = " ".join(map(str, proc.tree(replica)))
    kill_driver_during_dump(
        replica, 60.0, f"echo $$ >{begun}; read line <{go}; kill -STOP {members}; echo yes >{ended}", begun
    )
    assert proc.is_alive(int(begun.read_text()))
    go.write_text("now\n")
    eventually(ended.exists, "its end")

    eventually(lambda: all(state(pid) == "S" for pid in proc.tree(replica)), "the replica runs")


def test_the_dump_is_killed_at_its_deadline(replica: int, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    kill_driver_during_dump(replica, 1.0, f"echo $$ >{begun}; exec sleep 1000", begun)

    eventually(lambda: not proc.is_alive(int(begun.read_text())), "its end")


def test_a_living_driver_gets_exit_code_output_and_deadline_as_without_a_guard(replica: int) -> None:
    def begin() -> None:
        guard.begin(replica, 20.0)

    done = run(["sh", "-c", "echo out; exit 7"], deadline_s=20.0, enter=begin)
    assert (done.exit_code, done.output) == (7, "out\n")
    with pytest.raises(DriverError) as caught:
        run(["sleep", "1000"], deadline_s=0.2, enter=begin)

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    os.kill(replica, signal.SIGSTOP)
    eventually(lambda: state(replica) == "T", "the stop")
    assert run(["true"], deadline_s=20.0, enter=begin).exit_code == 0
    assert state(replica) == "T"
