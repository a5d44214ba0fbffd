"""Subprocesses end by themselves, by their deadline, or with their parent; never not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.process import run
from tests.restore_driver.waiting import eventually


def test_output_and_exit_code_come_back() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], deadline_s=10.0)

    assert (done.exit_code, done.output) == (3, "out\nerr\n")


def test_a_missed_deadline_kills_the_whole_group_even_if_it_is_stopped(tmp_path: Path) -> None:
    """A shell, its child, and a SIGSTOP to both: the hang that a stuck restore looks like."""
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! $$ > {pids}; kill -STOP $! $$; wait"
    with pytest.raises(DriverError) as caught:
        run(["sh", "-c", script], deadline_s=0.3)

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert [proc.is_alive(int(pid)) for pid in pids.read_text().split()] == [False, False]


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(DriverError, match="no-such-program does not exist") as caught:
        run(["no-such-program"], deadline_s=1.0)

    assert caught.value.reason is Reason.REQUEST_INVALID


def test_a_child_dies_with_its_driver(tmp_path: Path) -> None:
    """kill -9 of the driver: nothing goes on behind its back."""
    mark = tmp_path / "pid"
    code = (
        "from restore_driver.host.process import run; "
        f"run(['sh', '-c', 'echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 1000'], deadline_s=1000.0)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    eventually(mark.exists, "the child's mark")
    child = int(mark.read_text())
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    eventually(lambda: not proc.is_alive(child), "the child's end")
