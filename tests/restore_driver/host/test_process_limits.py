"""No program, and nothing before it, makes the driver wait longer than its deadline."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.capabilities import become_with_capabilities
from restore_driver.host.namespaces import open_entry
from restore_driver.host.process import NotStarted, run
from tests.restore_driver.trees import kill
from tests.restore_driver.waiting import eventually

FREEZER = Path("/sys/fs/cgroup/freezer")
DEATH_SIGNAL = "import ctypes; x = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(x)); print(x.value)"


def kill_all(path: Path) -> None:
    kill(map(int, path.read_text().split()))


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    """The program ended well: that is what counts."""
    done = run(["sh", "-c", f"sleep 1000 & echo $! >{tmp_path / 'pid'}; echo done"], deadline_s=20.0)
    kill_all(tmp_path / "pid")

    assert (done.exit_code, done.output) == (0, "done\n")


def test_one_in_a_session_of_its_own_does_not_hold_up_a_missed_deadline(tmp_path: Path) -> None:
    script = f"setsid sh -c 'echo $$ >{tmp_path / 'pid'}; exec sleep 1000' & sleep 1000"
    began_s = time.monotonic()
    with pytest.raises(DriverError) as caught:
        run(["sh", "-c", script], deadline_s=0.5)
    took_s = time.monotonic() - began_s
    kill_all(tmp_path / "pid")

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert took_s < 5.0


def test_the_deadline_holds_before_the_program_has_begun() -> None:
    with pytest.raises(DriverError) as caught:
        run(["true"], deadline_s=0.2, enter=lambda: time.sleep(1000.0))

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED


@pytest.fixture
def frozen() -> Iterator[Path]:
    """A cgroup in which nothing runs, nor can be killed (v1)."""
    if not (FREEZER / "cgroup.procs").exists():
        pytest.skip("no freezer of cgroup v1 here")
    made = FREEZER / f"forethaw-test-{os.getpid()}"
    made.mkdir()
    (made / "freezer.state").write_text("FROZEN")
    yield made
    (made / "freezer.state").write_text("THAWED")
    eventually(lambda: not (made / "cgroup.procs").read_text(), "the end of the cgroup's processes")
    run(["true"], deadline_s=20.0)  # takes leave of who is dead by now
    made.rmdir()


def test_what_can_not_even_be_killed_is_left_behind(frozen: Path) -> None:
    def join() -> None:
        (frozen / "cgroup.procs").write_text("0")

    with pytest.raises(DriverError, match="cannot be killed") as caught:
        run(["true"], deadline_s=0.2, enter=join)

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    child = int((frozen / "cgroup.procs").read_text())
    (frozen / "freezer.state").write_text("THAWED")
    eventually(lambda: not proc.is_alive(child), "the child's end")
    run(["true"], deadline_s=20.0)
    assert not Path(f"/proc/{child}").exists()


def test_failure_before_the_program_is_reported_with_its_cause() -> None:
    def refused() -> NoReturn:
        raise PermissionError(13, "Permission denied", "cgroup.procs")

    with pytest.raises(
        NotStarted, match=r"before true could start: PermissionError: .*Permission denied.*cgroup.procs"
    ):
        run(["true"], deadline_s=20.0, enter=refused)


def test_a_drivers_error_before_the_program_stays_what_it_is() -> None:
    def refused() -> NoReturn:
        raise DriverError(Reason.NOT_TRUSTED, "a detail", "a hint")

    with pytest.raises(DriverError) as caught:
        run(["true"], deadline_s=20.0, enter=refused)
    assert (caught.value.reason, caught.value.detail, caught.value.hint) == (Reason.NOT_TRUSTED, "a detail", "a hint")


def test_program_without_permission_and_malformed_program_differ(tmp_path: Path) -> None:
    for content, mode, expected in (("#!/bin/sh\n", 0o600, DriverError), ("\0\0", 0o700, OSError)):
        program = tmp_path / "program"
        program.write_text(content)
        program.chmod(mode)
        with pytest.raises(expected):
            run([str(program)], deadline_s=20.0)


def test_the_program_has_no_descriptors_but_those_that_are_passed() -> None:
    secret, passed = os.open("/etc/passwd", os.O_RDONLY), os.open("/etc/group", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        done = run(["sh", "-c", "ls -l /proc/$$/fd"], deadline_s=20.0, pass_fds=[passed])
    finally:
        os.close(secret)
        os.close(passed)

    assert "/etc/passwd" not in done.output and f" {passed} -> /etc/group" in done.output


def test_much_output_is_shown_by_its_end() -> None:
    done = run([sys.executable, "-c", "print('x' * (3 << 20)); print('end')"], deadline_s=20.0)

    assert (len(done.output), done.output[-5:]) == (1 << 20, "\nend\n")


def test_child_that_changes_user_still_dies_with_the_driver() -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    python = [os.path.realpath("/usr/bin/python3"), "-c", DEATH_SIGNAL]
    if not os.access(python[0], os.X_OK):
        pytest.skip("a Python that every user may run")
    assert run(python, deadline_s=20.0).output == f"{int(signal.SIGKILL)}\n"
    assert run(python, deadline_s=20.0, enter=lambda: become_with_capabilities(1000)).output == f"{signal.SIGKILL:d}\n"


def test_a_mark_for_pids_that_can_not_be_set_is_no_silent_loss() -> None:
    """Without it a restore may find its PIDs taken by CRIU's helpers."""
    if os.geteuid() != 0:
        pytest.skip("other namespaces need root")
    child = subprocess.Popen(["unshare", "--pid", "--fork", "sleep", "1000"])
    try:
        (first,) = eventually(lambda: proc.children(child.pid), "the first process of the namespace")
        with ExitStack() as stack:
            entry = open_entry(first, stack, above_pid=2**31)  # more than the kernel has
            with pytest.raises(NotStarted, match="ns_last_pid"):
                run(["true"], deadline_s=20.0, enter=entry.enter)
    finally:
        child.kill()
        child.wait()
        ctypes.CDLL(None).kill(first, signal.SIGKILL)
