"""CRIU is root of the machine among a container's files: it must load, run and obey none of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from restore_driver.criu import kerndat
from restore_driver.criu.command import Dump, Restore, call
from restore_driver.criu.find import PATCHED, Criu, find_criu
from restore_driver.driver import Driver
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.mounts import mount, unmount
from restore_driver.host.namespaces import open_entry
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from tests.restore_driver.containers import Container, containers
from tests.restore_driver.real.conftest import SERVER, Replica
from tests.restore_driver.waiting import eventually

__all__ = ["containers"]

TRAP = """
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    char line[4096];
    int from = open("/proc/self/cmdline", O_RDONLY), to = open("/srv/loaded", O_WRONLY | O_APPEND | O_CREAT, 0666);
    ssize_t length = read(from, line, sizeof line - 1);
    for (ssize_t at = 0; at < length; at++) if (!line[at]) line[at] = ' ';
    line[length > 0 ? length : 0] = '\\n';
    write(to, line, (length > 0 ? length : 0) + 1);
    close(from), close(to);
}
"""
PORT = 8080


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """Every place that CRIU, its loader or its helpers could look at holds a trap: it leaves a line in /srv/loaded."""
    if shutil.which("gcc") is None:
        pytest.skip("the trap is made by gcc")
    image = tmp_path / "image"
    image.mkdir()
    mount("tmpfs", image, "tmpfs", options="mode=0755")
    for directory in ("etc/criu", "usr/lib/criu", "usr/sbin", "srv/state"):
        (image / directory).mkdir(parents=True)
    (tmp_path / "trap.c").write_text(TRAP)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", image / "srv" / "trap.so", tmp_path / "trap.c"], check=True)
    (image / "etc" / "ld.so.preload").write_text("/srv/trap.so\n")
    (image / "etc" / "criu" / "default.conf").write_text("action-script /srv/trap.sh\n")
    shutil.copy(image / "srv" / "trap.so", image / "usr" / "lib" / "criu" / "trap.so")
    for program in ("srv/trap.sh", "usr/sbin/iptables", "usr/sbin/ip6tables"):
        (image / program).write_text(f"#!/bin/sh\necho criu ran {program} >>/srv/loaded\n")
        (image / program).chmod(0o755)
    shutil.copy(SERVER, image / "srv" / "server.py")
    yield image
    unmount(image)


def serve(container: Container) -> Replica:
    """The sample server, which falls into the trap itself, as all of its container's programs do."""
    script = 'setsid "$@" </dev/null >/dev/null 2>&1 &'  # a child of the placeholder's init, not of this process
    program = [os.path.realpath(sys.executable), "/srv/server.py", "--port", str(PORT), "--directory", "/srv/state"]
    entering = ["nsenter", "--target", str(container.placeholder.pid), "--all", "sh", "-c", script, "sh"]
    subprocess.run([*entering, *program], stdin=subprocess.DEVNULL, check=True)

    def serving() -> Replica | None:
        inside = container.placeholder.members()
        server = Replica(inside[min(set(inside) - {1})], PORT, container.root) if len(inside) > 1 else None
        return server if server is not None and server.answers() else None

    server: Replica = eventually(serving, "the server")
    return server


def test_neither_dump_nor_restore_falls_into_a_containers_traps(
    containers: tuple[Container, Container], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = containers
    monkeypatch.setenv("LD_PRELOAD", "/srv/trap.so")  # nor does what the driver's own environment says reach CRIU
    monkeypatch.setenv("CRIU_CONFIG_FILE", "/etc/criu/default.conf")
    driver = Driver(open_toolset(tmp_path / "state"))
    server = serve(source)
    server.ask("POST", "/increment")
    made = driver.carry_out(
        CheckpointRequest(
            pid=server.pid, artifact=tmp_path / "artifacts" / "snapshot", replica=ReplicaSpec(), leave_running=False
        )
    )
    (target.seen / "srv" / "loaded").unlink(missing_ok=True)
    restored = driver.carry_out(
        RestoreRequest(artifact=tmp_path / "artifacts" / "snapshot", placeholder_pid=target.placeholder.pid)
    )

    assert (made.outcome, restored.outcome) == ("ended", "proven"), (made, restored)
    lines = [line for container in containers for line in (container.seen / "srv" / "loaded").read_text().splitlines()]
    assert [line for line in lines if "server.py" in line] and not [line for line in lines if "criu" in line], lines
    woken = Replica(restored.answer["host_pid"], PORT, target.root)
    assert woken.ask("POST", "/increment") == {"count": 2}


@pytest.mark.parametrize("name", sorted(PATCHED))
def test_an_installation_that_is_not_patched_is_refused_until_it_is_made_anew(name: str, tmp_path: Path) -> None:
    home = tmp_path / "criu"
    shutil.copytree(os.environ["FORETHAW_CRIU"], home)
    (home / name).write_bytes(b"as it was: " + PATCHED[name] + b"\0")
    with pytest.raises(DriverError) as caught:
        find_criu({"FORETHAW_CRIU": str(home)})

    assert (caught.value.reason, caught.value.hint) == (
        Reason.CRIU_MISSING,
        f"install it again: restore_driver/criu/install.sh {home}",
    )


@pytest.mark.parametrize("given", ["the kernel's", "none"])
def test_what_criu_knows_of_the_kernel_is_the_drivers_not_the_containers(
    given: str, containers: tuple[Container, Container], tmp_path: Path
) -> None:
    """A container's cache, of the right kind and with untruths in it, is not even looked at."""
    criu, work = find_criu(), tmp_path / "work"
    work.mkdir()
    cache = kerndat.make(criu, tmp_path)
    assert cache is not None
    lie = containers[0].seen / "run" / "criu.kdat"
    lie.write_bytes(cache[:8] + bytes(len(cache) - 16) + cache[-8:])
    server = serve(containers[0])
    (tmp_path / "images").mkdir()
    with ExitStack() as stack:
        task, entry = Dump(proc.pid_chain(server.pid)[-1]), open_entry(server.pid, stack)
        call(
            criu,
            task,
            entry,
            tmp_path / "images",
            work,
            deadline_s=20.0,
            kernel_cache=cache if given != "none" else None,
        )
    for member in proc.tree(server.pid):
        os.kill(member, signal.SIGCONT)

    assert server.answers()
    assert lie.read_bytes()[8:-8] == bytes(len(cache) - 16)
    assert {path.name for path in work.iterdir()} == {"dump.log", "stats-dump"}


def test_a_criu_that_others_may_change_is_not_trusted(tmp_path: Path) -> None:
    home = tmp_path / "criu"
    shutil.copytree(os.environ["FORETHAW_CRIU"], home)
    assert find_criu({"FORETHAW_CRIU": str(home)}).bundled
    (home / "lib" / "libc.so.6").chmod(0o666)
    with pytest.raises(DriverError, match=r"libc\.so\.6 may be written by others") as caught:
        find_criu({"FORETHAW_CRIU": str(home)})

    assert caught.value.reason is Reason.NOT_TRUSTED


@pytest.mark.parametrize("task", [Dump(2), Restore()], ids=["dump", "restore"])
def test_a_criu_without_libraries_of_its_own_is_not_run_among_a_containers(
    task: Dump | Restore, containers: tuple[Container, Container], tmp_path: Path
) -> None:
    """Such as a system's: the loader would take the container's libc. In our own root it may run."""
    loose = Criu(Path("/bin"), "true", bundled=False, version=(4, 2, 1))
    with ExitStack() as stack:
        entry = open_entry(containers[0].placeholder.pid, stack)
        with pytest.raises(DriverError) as caught:
            call(loose, task, entry, tmp_path, tmp_path, deadline_s=20.0)

    assert caught.value.reason is Reason.CRIU_MISSING
    with ExitStack() as stack:
        assert call(loose, task, open_entry(os.getpid(), stack), tmp_path, tmp_path, deadline_s=20.0).exit_code == 0


def test_a_proc_that_is_not_the_kernels_is_refused(containers: tuple[Container, Container], tmp_path: Path) -> None:
    """Paths such as /proc/self/fd/7/lib/loader lead where the maker of that /proc wants."""
    pid = str(containers[0].placeholder.pid)
    subprocess.run(["nsenter", "--target", pid, "--mount", "mount", "-t", "tmpfs", "fake", "/proc"], check=True)
    with ExitStack() as stack, pytest.raises(DriverError) as caught:
        call(find_criu(), Restore(), open_entry(int(pid), stack), tmp_path, tmp_path, deadline_s=20.0)

    assert caught.value.reason is Reason.CRIU_RESTORE_FAILED
    assert "/proc is not the kernel's" in caught.value.detail
