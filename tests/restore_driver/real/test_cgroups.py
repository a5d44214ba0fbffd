"""A restored replica counts as its placeholder's and not as the driver's: cgroups, namespaces, and whom it outlives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from restore_driver.agent.client import ask
from restore_driver.driver import Driver
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.namespaces import KINDS, open_entry
from restore_driver.host.process import run
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from tests.restore_driver.agent.conftest import Sleeper, StartAgent, sleeper, start_agent
from tests.restore_driver.real.conftest import Place
from tests.restore_driver.waiting import eventually

__all__ = ["sleeper", "start_agent"]  # fixtures

HIERARCHIES = ("pids", "freezer", "unified", "systemd", ".")
"""Below /sys/fs/cgroup: some of version 1, and version 2 beside them or alone. The first ones that are there do."""


@pytest.fixture
def cgroups() -> Iterator[dict[Path, Path]]:
    """New cgroups for the test: hierarchy -> a cgroup of its own in it."""
    made: dict[Path, Path] = {}
    for name in HIERARCHIES:
        root = Path("/sys/fs/cgroup", name)
        if (root / "cgroup.procs").exists() and len(made) < 3:
            with suppress(OSError):
                (root / f"forethaw-test-{os.getpid()}").mkdir()
                made[root] = root / f"forethaw-test-{os.getpid()}"
    if not made:
        pytest.skip("no cgroup hierarchy may be written here")
    yield made
    for cgroup in made.values():
        eventually(partial(is_empty, cgroup), f"the end of those in {cgroup}")
        cgroup.rmdir()


def is_empty(cgroup: Path) -> bool:
    return not (cgroup / "cgroup.procs").read_text()


def cgroups_of(pid: int) -> list[str]:
    return sorted(Path(f"/proc/{pid}/cgroup").read_text().splitlines())


def checkpointed(driver: Driver, pid: int, artifact: Path) -> Path:
    request = CheckpointRequest(pid=pid, artifact=artifact, replica=ReplicaSpec(), leave_running=False)
    assert driver.carry_out(request).outcome == "ended"
    return artifact


def test_a_restored_replica_is_in_its_placeholders_cgroups(
    cgroups: dict[Path, Path], sleeper: Sleeper, place: Place, state: Path, tmp_path: Path
) -> None:
    """The placeholder is moved into cgroups of its own; the replica comes up there, the driver stays where it is."""
    driver, ours = Driver(open_toolset(state)), cgroups_of(os.getpid())
    artifact = checkpointed(driver, sleeper(), tmp_path / "snapshot")
    placeholder = place()
    for cgroup in cgroups.values():
        (cgroup / "cgroup.procs").write_text(str(placeholder.pid))
    theirs = cgroups_of(placeholder.pid)
    result = driver.carry_out(RestoreRequest(artifact=artifact, placeholder_pid=placeholder.pid))
    restored = result.answer["host_pid"]
    procs = {cgroup: sorted(map(int, (cgroup / "cgroup.procs").read_text().split())) for cgroup in cgroups.values()}
    found, ours_after = cgroups_of(restored), cgroups_of(os.getpid())
    placeholder.end()

    assert result.outcome == "proven"
    assert (found, found == ours) == (theirs, False)
    assert procs == dict.fromkeys(cgroups.values(), sorted([placeholder.pid, restored]))
    assert ours_after == ours


def test_a_restored_replica_outlives_the_agent_that_restored_it(
    start_agent: StartAgent, sleeper: Sleeper, place: Place, tmp_path: Path
) -> None:
    """kill -9 of the agent, once the replica is proven: no agent rolls it back any more."""
    first = start_agent()
    request = CheckpointRequest(
        pid=sleeper(), artifact=tmp_path / "snapshot", replica=ReplicaSpec(), leave_running=False
    )
    assert ask(first.path, request, 30.0).outcome == "ended"
    placeholder = place()
    restored = ask(first.path, RestoreRequest(artifact=request.artifact, placeholder_pid=placeholder.pid), 30.0)
    pid = restored.answer["host_pid"]
    first.process.kill()
    first.wait()
    alone = proc.is_alive(pid)
    second = start_agent()
    second.process.send_signal(signal.SIGTERM)
    said = second.wait()

    assert (restored.outcome, alone, said) == ("proven", True, 0)
    assert sorted(placeholder.members().values()) == sorted([placeholder.pid, pid])
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(placeholder.pid)


def test_what_enters_a_placeholder_is_in_all_of_its_namespaces_and_in_no_other_of_ours(place: Place) -> None:
    placeholder = place()
    names = " ".join(f"/proc/self/ns/{kind}" for kind in (*KINDS, "user", "cgroup"))
    with ExitStack() as stack:
        entry = open_entry(placeholder.pid, stack)
        said = run(["sh", "-c", f"readlink {names}; echo $$"], deadline_s=10.0, enter=entry.enter).output.split()

    ids = [f"{kind}:[{proc.namespace_id(placeholder.pid, kind)}]" for kind in KINDS]
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "cgroup")]
    assert said[:-1] == [*ids, *ours]
    assert not set(ids) & {os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}
    assert int(said[-1]) < 10


def test_entering_process_takes_no_pid_that_a_restore_needs(place: Place) -> None:
    """The placeholder's next PIDs begin above the snapshot's highest; ours go on as they were."""
    placeholder = place()
    before = int(Path("/proc/sys/kernel/ns_last_pid").read_text())
    with ExitStack() as stack:
        entry = open_entry(placeholder.pid, stack, above_pid=30_000)
        inside = int(run(["sh", "-c", "echo $$"], deadline_s=10.0, enter=entry.enter).output)
    after = int(Path("/proc/sys/kernel/ns_last_pid").read_text())

    assert inside > 30_000
    assert not before < 30_000 < after < 30_100


def test_a_placeholder_that_is_gone_is_lost(place: Place) -> None:
    placeholder = place()
    placeholder.end()
    eventually(lambda: not proc.is_alive(placeholder.pid), "its end")
    with ExitStack() as stack, pytest.raises(DriverError) as caught:
        open_entry(placeholder.pid, stack)

    assert caught.value.reason is Reason.PLACEHOLDER_LOST
