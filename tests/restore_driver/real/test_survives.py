"""A server with threads, a child, pipes, sockets, files and shared memory survives: through the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from restore_driver.host import proc
from restore_driver.placeholder.create import Placeholder
from tests.restore_driver.real.conftest import Place, Replica, Start, forethaw
from tests.restore_driver.waiting import eventually


def count_to(replica: Replica, number: int) -> None:
    for _ in range(number):
        replica.ask("POST", "/increment")


def restored(answer: dict[str, Any], was: Replica) -> Replica:
    return Replica(answer["answer"]["host_pid"], was.port, was.directory)


def test_checkpoint_end_restore(start: Start, place: Place, state: Path, tmp_path: Path) -> None:
    """The timeline of the product: count to three, checkpoint and end, restore elsewhere, go on counting."""
    server = start()
    count_to(server, 3)
    before = server.ask("GET", "/state")
    made = forethaw("checkpoint", str(server.pid), tmp_path / "snapshot", "--end", state=state)

    assert (made["outcome"], made["reason"]) == ("ended", None)
    assert not proc.is_alive(server.pid)

    placeholder = place()
    answer = forethaw("restore", tmp_path / "snapshot", "--into", str(placeholder.pid), state=state)
    server = restored(answer, server)

    assert answer["outcome"] == "proven"
    assert proc.namespace_id(server.pid, "net") == proc.namespace_id(placeholder.pid, "net")
    assert server.ask("GET", "/state") == before
    assert server.ask("POST", "/increment")["count"] == 4


def test_every_millisecond_is_accounted_for(start: Start, place: Place, state: Path, tmp_path: Path) -> None:
    server = start()
    made = forethaw("checkpoint", str(server.pid), tmp_path / "snapshot", "--end", state=state)
    answer = forethaw("restore", tmp_path / "snapshot", "--into", str(place().pid), state=state)

    for result in (made, answer):
        took_s = sum(phase["took_s"] for phase in result["phases"])
        assert result["total_s"] == pytest.approx(took_s + result["unaccounted_s"])
        assert 0.0 <= result["unaccounted_s"] <= 0.05 * result["total_s"]


def test_a_replica_that_is_left_running_goes_on(start: Start, state: Path, tmp_path: Path) -> None:
    server = start()
    count_to(server, 2)
    made = forethaw("checkpoint", str(server.pid), tmp_path / "snapshot", state=state)

    assert made["outcome"] == "published"
    assert server.ask("POST", "/increment")["count"] == 3


def test_two_clones_of_one_snapshot_run_side_by_side(start: Start, place: Place, state: Path, tmp_path: Path) -> None:
    """Each in namespaces of its own, the network's too: same PIDs, same port, own counts."""
    server = start()
    count_to(server, 1)
    forethaw("checkpoint", str(server.pid), tmp_path / "snapshot", "--end", state=state)
    clones = [
        restored(forethaw("restore", tmp_path / "snapshot", "--into", str(place().pid), state=state), server)
        for _ in range(2)
    ]
    count_to(clones[0], 5)

    assert [clone.ask("GET", "/count")["count"] for clone in clones] == [6, 1]
    assert proc.pid_chain(clones[0].pid)[-1] == proc.pid_chain(clones[1].pid)[-1]


def test_a_server_that_is_not_roots_stays_that_users(start: Start, place: Place, state: Path, tmp_path: Path) -> None:
    server = start("--user", "1000")
    made = forethaw("checkpoint", str(server.pid), tmp_path / "snapshot", "--end", state=state)
    answer = forethaw("restore", tmp_path / "snapshot", "--into", str(place().pid), state=state)
    server = restored(answer, server)

    assert made["outcome"] == "ended"
    assert proc.user_id(server.pid) == 1000
    assert {os.stat(path).st_uid for path in (tmp_path / "snapshot").rglob("*")} == {0}


def test_a_clone_can_be_checkpointed_in_its_own_namespaces(
    start: Start, place: Place, state: Path, tmp_path: Path
) -> None:
    """Containers are dumped from within: restore, count on, dump again, restore again."""
    server = start()
    forethaw("checkpoint", str(server.pid), tmp_path / "first", "--end", state=state)
    first = place()
    server = restored(forethaw("restore", tmp_path / "first", "--into", str(first.pid), state=state), server)
    count_to(server, 7)
    forethaw("checkpoint", str(server.pid), tmp_path / "second", "--end", state=state)
    answer = forethaw("restore", tmp_path / "second", "--into", str(place().pid), state=state)

    assert restored(answer, server).ask("GET", "/count")["count"] == 7


def test_without_a_placeholder_one_is_made_on_this_machines_network(start: Start, state: Path, tmp_path: Path) -> None:
    server = start()
    count_to(server, 2)
    forethaw("checkpoint", str(server.pid), tmp_path / "snapshot", "--end", state=state)
    answer = forethaw("restore", tmp_path / "snapshot", state=state)
    server = restored(answer, server)
    try:
        assert proc.namespace_id(server.pid, "net") == proc.namespace_id(os.getpid(), "net")
        assert server.ask("GET", "/count")["count"] == 2
    finally:
        Placeholder(parent(server.pid)).end()
        eventually(lambda: not server.answers(), "its end")


def parent(pid: int) -> int:
    """Whose child a process is: a restored one's parent is its placeholder's first process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
