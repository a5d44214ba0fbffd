"""A real agent under many clients at once, slow ones and ones that send garbage, and too few descriptors."""

from __future__ import annotations

import os
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from restore_driver.agent.client import status
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.agent.conftest import RunningAgent, StartAgent
from tests.restore_driver.trees import descriptors

LONG_S = 60.0


def cpu_s(pid: int) -> float:
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connected(agent: RunningAgent, stack: ExitStack) -> socket.socket:
    connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    connection.settimeout(LONG_S)
    connection.connect(str(agent.path))
    return connection


@pytest.mark.parametrize("clients", [100, 300])
def test_all_clients_of_a_burst_are_answered(clients: int, agent: RunningAgent) -> None:
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda _: status(agent.path, LONG_S)["pid"], range(clients)))

    assert answers == [agent.process.pid] * clients


def test_a_client_is_answered_beside_many_silent_and_garbled_ones(agent: RunningAgent) -> None:
    with ExitStack() as stack:
        for number in range(100):
            connected(agent, stack).sendall((b"", b"{", b"\xff" * 1000, b"x\n")[number % 4])
        began_s = time.monotonic()
        answer = status(agent.path, LONG_S)
        took_s = time.monotonic() - began_s

    assert (answer["pid"], answer["attempts"]) == (agent.process.pid, 0)
    assert took_s < LONG_S / 2


def test_an_agent_without_descriptors_does_not_spin_and_answers_once_there_are_some(start_agent: StartAgent) -> None:
    """Its accept fails with EMFILE: a client misses its deadline, the agent's CPU time stays near zero, and then all
    is as before."""
    agent = start_agent()
    pid = agent.process.pid
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), 4096))
    with ExitStack() as stack:
        for _ in range(20):  # for descriptors that are still free, or that accept(2) has reserved
            connected(agent, stack)
        before_s = cpu_s(pid)
        with pytest.raises(DriverError) as late:
            status(agent.path, 2.0)
        used_s = cpu_s(pid) - before_s
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, 4096))
        answer = status(agent.path, LONG_S)

    assert (late.value.reason, answer["pid"]) == (Reason.DEADLINE_EXCEEDED, pid)
    assert used_s < 0.1
