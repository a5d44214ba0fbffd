"""A hook that is a program can do what its replica can, and nothing more."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import pytest

from restore_driver.engines import ProcessRoot, quiesce
from restore_driver.errors import DriverError, Reason
from restore_driver.host import namespaces
from restore_driver.host.namespaces import open_entry
from restore_driver.wire.replica_spec import ExecEngine
from tests.restore_driver.waiting import eventually

FREEZER = Path("/sys/fs/cgroup/freezer")
RIGHTS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
Begin = Callable[..., int]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts `sleep` by a wrapper that takes rights away; PID of the process that sleeps."""
    if os.geteuid() != 0:
        pytest.skip("another's rights are root's to take on")
    begun: list[subprocess.Popen[bytes]] = []

    def start(*wrapper: str) -> int:
        child = subprocess.Popen([*wrapper, "sleep", "1000"])
        begun.append(child)
        ends_s = time.monotonic() + 20.0
        while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < ends_s and child.poll() is None
        return child.pid

    yield start
    for child in begun:
        child.kill()
        child.wait()


def said_by_hook(pid: int, script: str) -> str:
    """What a hook writes, which only one that fails gives back."""
    spec = ExecEngine(kind="exec", quiesce=("sh", "-c", f"{script}; exit 3"), resume=("true",))
    with pytest.raises(DriverError) as caught:
        quiesce(spec, ProcessRoot(pid, Path(f"/proc/{pid}/root")), 20.0)
    assert caught.value.reason is Reason.QUIESCE_FAILED
    return caught.value.detail.partition("exit code 3: ")[2]


def rights_of_hook(pid: int) -> dict[str, str]:
    """One look for each line: an error tells its last two hundred characters."""
    return {name: said_by_hook(pid, f"sed -n 's/^{name}:\\s*//p' /proc/self/status") for name in RIGHTS}


def rights(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {name: found[name] for name in RIGHTS}


FEW = "-all,+net_bind_service"


@pytest.mark.parametrize(
    "wrapper",
    [
        ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"],
        ["setpriv", "--bounding-set", "-all,+chown,+kill", "--inh-caps", "-all"],
        ["setpriv", "--reuid", "1000", "--regid", "1001", "--groups", "1001,2000", "--bounding-set", FEW],
        ["setpriv", "--reuid", "1000", "--regid", "1001", "--clear-groups", "--inh-caps", FEW, "--ambient-caps", FEW],
    ],
    ids=["root without any", "root with two", "user without any", "user with one, ambient"],
)
def test_it_has_the_rights_of_the_replica(begin: Begin, wrapper: list[str]) -> None:
    pid = begin(*wrapper)

    assert rights_of_hook(pid) == rights(pid)
    assert said_by_hook(pid, "sed -n 's/^NoNewPrivs:\\s*//p' /proc/self/status") == "1"


def test_what_the_replica_has_in_a_user_namespace_of_its_own_it_has_not_here(begin: Begin) -> None:
    """There it is root and may do all; among our files it would be a root of ours."""
    pid = begin("unshare", "--user", "--map-root-user")
    inside = rights(pid)
    hook = rights_of_hook(pid)

    assert int(inside["CapEff"], 16) != 0
    assert {name: int(hook[name], 16) for name in RIGHTS if name.startswith("Cap")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )


def test_it_dies_with_the_driver_though_it_became_another_user(begin: Begin) -> None:
    pid = begin("setpriv", "--reuid", "1000", "--regid", "1001", "--clear-groups")
    code = "import ctypes; x = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(x)); print(x.value); exit(3)"
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("a Python that every user may run")

    assert said_by_hook(pid, f"exec /usr/bin/python3 -c '{code}'") == "9"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    if not (FREEZER / "cgroup.procs").exists():
        pytest.skip("no cgroups of version 1 here")
    made = FREEZER / f"forethaw-test-exec-{os.getpid()}"
    made.mkdir()
    yield made
    eventually(lambda: not (made / "cgroup.procs").read_text(), "the end of the cgroup's processes")
    made.rmdir()


@pytest.fixture
def in_cgroup(cgroup: Path, begin: Begin) -> Iterator[int]:
    pid = begin()
    (cgroup / "cgroup.procs").write_text(str(pid))
    yield pid
    (FREEZER / "cgroup.procs").write_text(str(pid))


def test_it_counts_in_the_replicas_cgroups(in_cgroup: int, cgroup: Path) -> None:
    assert said_by_hook(in_cgroup, "sed -n 's/.*:freezer:/freezer /p' /proc/self/cgroup") == f"freezer /{cgroup.name}"


def hide(monkeypatch: pytest.MonkeyPatch, *controllers: str) -> None:
    """As in a container that was not given these of the host's hierarchies."""
    seen = namespaces._cgroup_mounts
    monkeypatch.setattr(
        namespaces, "_cgroup_mounts", lambda: {key: at for key, at in seen().items() if key not in controllers}
    )


def test_cgroups_of_which_none_can_be_seen_are_refused(
    in_cgroup: int, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is restored would count as the driver's own, and end with it."""
    hide(monkeypatch, "freezer")
    with ExitStack() as stack, pytest.raises(DriverError) as caught:
        open_entry(in_cgroup, stack, cgroups=True)

    assert caught.value.reason is Reason.REQUEST_INVALID
    assert f"(freezer:/{cgroup.name})" in caught.value.detail


def test_cgroups_that_were_not_joined_are_reported(
    in_cgroup: int, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = Path("/sys/fs/cgroup/pids") / cgroup.name
    pids.mkdir()
    try:
        (pids / "cgroup.procs").write_text(str(in_cgroup))
        hide(monkeypatch, "freezer")
        with ExitStack() as stack:
            entry = open_entry(in_cgroup, stack, cgroups=True)
            assert (len(entry.cgroups), entry.not_joined) == (1, (f"freezer:/{cgroup.name}",))
    finally:
        (pids.parent / "cgroup.procs").write_text(str(in_cgroup))
        pids.rmdir()


def test_a_path_beside_our_own_cgroup_namespace_is_not_looked_for_outside_of_its_mount() -> None:
    mounts = [(PurePosixPath("/kubepods/pod1"), Path("/sys/fs/cgroup"))]

    assert namespaces._seen("/../../etc", mounts) is None
    assert namespaces._seen("/kubepods/pod2", mounts) is None


def test_a_hook_that_leaves_a_daemon_behind_has_ended(begin: Begin, tmp_path: Path) -> None:
    pid = begin()
    script = (
        f"setsid sh -c 'echo $$ >{tmp_path / 'pid'}; exec sleep 1000' & while ! [ -s {tmp_path / 'pid'} ]; do :; done"
    )
    assert said_by_hook(pid, script) == ""
    os.kill(int((tmp_path / "pid").read_text()), 9)
