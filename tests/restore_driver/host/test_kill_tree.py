"""The members of a process tree, those that live, and its end without survivors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.kill_tree import end_processes
from restore_driver.placeholder.create import create
from tests.restore_driver.trees import kill_tree

RESPAWNING = """
import os, signal, time
def worker():
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        time.sleep(1000)
        os._exit(0)
def ended(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: worker()
    except ChildProcessError: pass
signal.signal(signal.SIGCHLD, ended)
for _ in range(8): worker()
print(flush=True)
while True: time.sleep(1)
"""
LEADER_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print(flush=True)
ctypes.CDLL(None).syscall(60 if __import__("os").uname().machine == "x86_64" else 93, 0)
"""
THREADS_END = """
import subprocess, threading, time
for number in range(1000): threading.Thread(target=time.sleep, args=(0.5 + number * 0.001,), daemon=True).start()
def parent():
    subprocess.Popen(["sleep", "1000"])
    time.sleep(1000)
for _ in range(4): threading.Thread(target=parent, daemon=True).start()
time.sleep(0.4)
print(flush=True)
time.sleep(1000)
"""
Begin = Callable[..., "subprocess.Popen[bytes]"]


def deadline(limit_s: float = 20.0) -> Deadline:
    return Deadline.after("the end", limit_s)


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a Python program in a session of its own and waits for its first line; ends it after the test."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(code: str, *wrap: str, **options: Any) -> subprocess.Popen[bytes]:
        argv = [*wrap, os.path.realpath(sys.executable), "-S", "-c", code]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True, **options)
        begun.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    yield start
    for child in begun:
        kill_tree(child.pid)
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]  # a pipe


def session(leader: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == leader and proc.is_alive(int(name)):
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found


def test_a_master_that_starts_a_worker_for_each_dead_one_leaves_none(begin: Begin) -> None:
    for _ in range(10):
        master = begin(RESPAWNING)
        assert len(session(master.pid)) == 9
        end_processes(proc.tree(master.pid), deadline())

        assert session(master.pid) == []


def test_only_the_first_process_need_be_named(begin: Begin) -> None:
    master = begin(RESPAWNING)
    end_processes([master.pid], deadline())

    assert session(master.pid) == []


def test_members_of_a_namespace_whose_parents_are_gone_are_ended_too() -> None:
    """Nothing in a tree of processes leads to them; the listing does."""
    placeholder = create(network="private")
    try:
        script = "for n in 1 2 3; do (setsid sleep 1000 &) ; done"
        subprocess.run(["nsenter", "--target", str(placeholder.pid), "--all", "sh", "-c", script], check=True)

        def strangers() -> list[int]:
            return [pid for inside, pid in placeholder.members().items() if inside != 1]

        assert len(strangers()) == 3
        end_processes((), deadline(), strangers)

        assert strangers() == []
        assert proc.is_alive(placeholder.pid)
    finally:
        placeholder.end()


def test_stopped_processes_end_and_those_that_ended_are_no_error(begin: Begin) -> None:
    child = begin("import time; print(flush=True); time.sleep(1000)")
    os.kill(child.pid, signal.SIGSTOP)
    end_processes([child.pid, child.pid], deadline())
    end_processes([child.pid], deadline())
    child.wait()
    end_processes([child.pid], deadline())

    assert child.returncode == -signal.SIGKILL


def test_all_get_their_signal_even_when_the_time_is_over(begin: Begin) -> None:
    child = begin("import time; print(flush=True); time.sleep(1000)")
    with pytest.raises(DriverError) as caught:
        end_processes([child.pid], Deadline("the end", 1.0, 0.0, lambda: 10.0))

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert child.wait(20.0) == -signal.SIGKILL


def test_a_process_lives_while_any_of_its_threads_does(begin: Begin) -> None:
    child = begin(LEADER_ENDS)
    ends_s = time.monotonic() + 20.0
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < ends_s
    ticks = proc.start_ticks(child.pid)
    assert (proc.is_alive(child.pid), proc.is_same(*proc.identity(child.pid))) == (True, True)
    end_processes([child.pid], deadline())

    assert (proc.is_alive(child.pid), proc.is_same(child.pid, ticks)) == (False, False)


def test_no_child_is_missed_while_threads_end(begin: Begin) -> None:
    child = begin(THREADS_END)
    found = set()
    while len(os.listdir(f"/proc/{child.pid}/task")) > 10:
        found.add(len(proc.children(child.pid)))

    assert found == {4}


def test_every_reader_reports_a_missing_process_as_lost() -> None:
    gone = 2**22 - 1
    for ask in (proc.pid_chain, proc.user_id, proc.start_ticks, proc.identity):
        with pytest.raises(DriverError) as caught:
            ask(gone)
        assert caught.value.reason is Reason.REPLICA_LOST
    assert (proc.children(gone), proc.tree(gone), proc.is_alive(gone)) == ((), (gone,), False)
