"""A stopped tree goes on: all of it, and no parent takes a child for stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from restore_driver.host import proc
from restore_driver.host.sigcont import continue_tree
from tests.restore_driver.trees import is_stopped, kill, state
from tests.restore_driver.waiting import eventually

SUPERVISOR = """
import os, signal, sys, time
child = os.fork()
if not child:
    while True:
        time.sleep(0.001)
print(child, flush=True)
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(os.getpid(), signal.SIGSTOP)  # as su(1) does, and waits to be woken with its child
"""


@contextmanager
def stopped_tree() -> Iterator[tuple[int, int]]:
    """A supervisor and its child, both stopped as CRIU leaves them: the parent has not seen it of the child."""
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            for pid in (parent.pid, child):
                os.kill(pid, signal.SIGSTOP)
                eventually(partial(is_stopped, pid), "its stop")
            yield parent.pid, child
        finally:
            kill((child, parent.pid))


@pytest.mark.parametrize("turn", range(5))
def test_a_parent_that_waits_for_stops_sees_none(turn: int) -> None:
    with stopped_tree() as (parent, child):
        continue_tree(*proc.identity(parent))
        eventually(lambda: state(child) != "T", "the child's going on")
        for _ in range(20):
            assert state(parent) != "T"
            os.sched_yield()


def test_parent_that_dies_on_continue_leaves_no_process_stopped() -> None:
    """It got SIGTERM while it was stopped."""
    with stopped_tree() as (parent, child):
        os.kill(parent, signal.SIGTERM)
        continue_tree(*proc.identity(parent))
        eventually(lambda: state(child) != "T", "the child's going on")
        eventually(lambda: state(parent) == "Z", "the parent's end")


def test_later_process_of_the_same_pid_is_not_continued() -> None:
    with stopped_tree() as (parent, child):
        pid, ticks = proc.identity(parent)
        continue_tree(pid, ticks - 1)

        assert (state(parent), state(child)) == ("T", "T")
