"""Memory that a restore fills in beside CRIU: whole before anybody runs, and none of it twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restore_driver.artifact.compacting import compact_artifact
from restore_driver.artifact.manifest import MEMORY, load_manifest
from restore_driver.driver import Driver
from restore_driver.host import proc
from restore_driver.placeholder.create import Placeholder
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from restore_driver.wire.result import Result
from tests.restore_driver.real.conftest import Place
from tests.restore_driver.trees import kill, kill_tree, thread_states
from tests.restore_driver.waiting import eventually

MIB = 1 << 20
FAMILY = f"""
import mmap, os, time

def memory(size):
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made[:] = b"not zero" * (size // 8)
    return made

before = memory(48 * {MIB})
before.madvise(mmap.MADV_DONTDUMP)  # a flag of its own, else the kernel makes one area of it and the next
if os.fork():
    after = memory(32 * {MIB})
    print("ready", flush=True)
while True:
    time.sleep(0.01)
"""

SHELL = ("/bin/sh", "-c", '"$@"; exit', "sh")
"""Runs the words after it, as its child."""
IN_A_SESSION_FROM_OUTSIDE = ("unshare", "--pid", "--fork", "--kill-child", *SHELL)
"""A session begun in one pid namespace, and the words run in another: as an exec into a container runs them."""


@contextmanager
def family(*under: str) -> Iterator[int]:
    """A process and its forked child: 48 MiB are both's, 32 MiB the parent's own; the parent's PID.

    Whatever it is run under begins the session, or it does: ours may have a leader that we can not see.
    """
    argv = [os.path.realpath(sys.executable), "-c", FAMILY]
    leader = subprocess.Popen(
        [*under, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert leader.stdout is not None
    try:
        assert leader.stdout.readline() == b"ready\n"
        yield proc.tree(leader.pid)[-2]  # the last one is its child
    finally:
        kill_tree(leader.pid)
        leader.wait()
        leader.stdout.close()


def moved(driver: Driver, pid: int, artifact: Path, placeholder: Placeholder) -> tuple[Result, dict[int, int]]:
    """Checkpointed, ended and restored; the restore's result, and the PIDs by those that they had."""
    inside = {proc.pid_chain(each)[-1]: each for each in proc.tree(pid)}
    made = driver.carry_out(CheckpointRequest(pid=pid, artifact=artifact, replica=ReplicaSpec(), leave_running=False))
    assert made.outcome == "ended", made
    result = driver.carry_out(RestoreRequest(artifact=artifact, placeholder_pid=placeholder.pid))
    assert result.outcome == "proven", result
    members = placeholder.members()
    return result, {pid: members[number] for number, pid in inside.items()}


def rollup_mib(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) >> 10 for line in lines}


def filled_mib(result: Result) -> int:
    return int(next(phase.details for phase in result.phases if phase.phase == "fill-memory")["bytes"]) >> 20


def test_pages_that_a_fork_shares_stay_one(state: Path, place: Place, tmp_path: Path) -> None:
    """Set apart and filled in for each, they would take their room twice; the parent's own are filled in."""
    with family() as parent:
        child = next(iter(proc.children(parent)))
        result, now = moved(Driver(open_toolset(state)), parent, tmp_path / "a" / "snapshot", place())

    assert 32 <= filled_mib(result) < 48
    assert min(rollup_mib(now[pid])["Shared_Dirty"] for pid in (parent, child)) >= 48
    assert rollup_mib(now[parent])["Private_Dirty"] >= 32
    assert rollup_mib(now[child])["Private_Dirty"] < 16


def test_a_task_that_was_stopped_stays_so_and_the_others_run(state: Path, place: Place, tmp_path: Path) -> None:
    """Filling memory in ends by waking the tree: so such a tree is left to CRIU, which knows who was stopped."""
    with family() as parent:
        child = next(iter(proc.children(parent)))
        os.kill(child, signal.SIGSTOP)
        eventually(lambda: thread_states(child) == "T", "its stop")
        result, now = moved(Driver(open_toolset(state)), parent, tmp_path / "a" / "snapshot", place())

    assert (filled_mib(result), (tmp_path / "a" / "snapshot" / MEMORY).exists()) == (0, False)
    assert (thread_states(now[child]), "T" in thread_states(now[parent])) == ("T", False)


def test_a_tree_in_its_callers_session_is_left_to_criu(state: Path, place: Place, tmp_path: Path) -> None:
    """Stopped when CRIU ends, its process group would be orphaned, and the kernel would hang up on it."""
    with family(*SHELL) as parent:
        result, now = moved(Driver(open_toolset(state)), parent, tmp_path / "a" / "snapshot", place())

    assert load_manifest(tmp_path / "a" / "snapshot").process.shell_job
    assert filled_mib(result) == 0
    assert all(proc.is_alive(pid) for pid in now.values())


def test_a_tree_whose_session_began_in_another_pid_namespace_is_refused_untouched(state: Path, tmp_path: Path) -> None:
    """CRIU has no number for such a leader."""
    with family(*IN_A_SESSION_FROM_OUTSIDE) as pid:
        request = CheckpointRequest(pid=pid, artifact=tmp_path / "a" / "snapshot", replica=ReplicaSpec())
        result = Driver(open_toolset(state)).carry_out(request)

        assert (result.outcome, result.reason) == ("refused", "RequestInvalid")
        assert (str(pid) in (result.detail or ""), "setsid" in (result.hint or "")) == (True, True)
        assert proc.is_alive(pid)
        assert not (tmp_path / "a").exists()


def test_uncompacted_artifact_is_offloaded_later(state: Path, place: Place, tmp_path: Path) -> None:
    """`forethaw compact` on what `--no-compact` made."""
    driver, artifact = Driver(open_toolset(state)), tmp_path / "a" / "snapshot"
    with family() as parent:
        request = CheckpointRequest(pid=parent, artifact=artifact, replica=ReplicaSpec(), compact=False)
        assert driver.carry_out(request).outcome == "published"
    first, second = compact_artifact(artifact), compact_artifact(artifact)
    result = driver.carry_out(RestoreRequest(artifact=artifact, placeholder_pid=place().pid))

    assert first.compaction.offloaded_bytes >= 32 * MIB
    assert (second.replaced, second.digest) == (False, first.digest)
    assert (result.outcome, filled_mib(result) >= 32) == ("proven", True)


def test_a_replica_never_runs_without_all_of_its_memory(snapshot: Path, place: Place, state: Path) -> None:
    """CRIU leaves every thread of the tree stopped, the large pieces missing; whole, and not before, it goes on."""
    placeholder, driver, threads = place(), Driver(open_toolset(state)), dict[str, str]()

    def states() -> str:
        return "".join(thread_states(pid) for pid in placeholder.members().values())

    def look(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "fill-memory"):  # sent to all, taken by each once it has a core
            eventually(lambda: "R" not in states(), "their stop")
        if phase == "fill-memory":
            threads[event] = states()

    result = driver.carry_out(RestoreRequest(artifact=snapshot, placeholder_pid=placeholder.pid), look)
    filled = next(phase.details for phase in result.phases if phase.phase == "fill-memory")

    assert (result.outcome, filled["bytes"] > 8 << 20) == ("proven", True), result
    assert len(threads["begin"]) > 3
    assert threads["begin"].count("T") == len(threads["begin"]) - 1, "all but the placeholder's own"
    assert "T" not in threads["end"]


def test_a_replica_that_ends_before_it_is_whole_is_a_failed_restore(snapshot: Path, place: Place, state: Path) -> None:
    placeholder, driver = place(), Driver(open_toolset(state))

    def end(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "fill-memory"):
            pids = [pid for inside, pid in placeholder.members().items() if inside != 1]
            kill(pids)
            eventually(lambda: not any(proc.is_alive(pid) for pid in pids), "their end")

    result = driver.carry_out(RestoreRequest(artifact=snapshot, placeholder_pid=placeholder.pid), end)

    assert (result.phase, result.reason, result.fallback) == ("fill-memory", "CriuRestoreFailed", "cold-start"), result
    assert set(placeholder.members()) == {1}
