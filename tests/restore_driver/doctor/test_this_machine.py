"""The examination of a real machine: as root, as another user, with and without CRIU; and without side effects."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from restore_driver.doctor import Finding, Verdict
from restore_driver.host import proc
from restore_driver.host.mounts import MS_BIND, MS_PRIVATE, MS_REC, mount
from restore_driver.host.namespaces import KINDS, unshare
from tests.restore_driver.containers import mounts_near
from tests.restore_driver.doctor.conftest import ROOT, Examination, doctor, program, read
from tests.restore_driver.real.conftest import criu
from tests.restore_driver.waiting import eventually

__all__ = ["criu"]

NO_CRIU = Finding("criu-check", Verdict.MISSING, "not run: there is no usable CRIU", "see `criu` above")
INSTALL = "install it: restore_driver/criu/install.sh, or name one by FORETHAW_CRIU=/path/to/criu"
_PR_SET_CHILD_SUBREAPER = 36


def test_a_machine_that_can_restore_is_fit(tmp_path: Path) -> None:
    """This machine is fit: the other tests restore on it."""
    seen = doctor("--state", tmp_path / "state", "--artifacts", tmp_path / "artifacts")

    assert seen.fatal() == {}
    assert seen.exit_code == 0
    assert seen.some("root", "ns-last-pid", "namespaces") == [
        Finding("root", Verdict.OK, "user 0"),
        Finding("ns-last-pid", Verdict.OK, "the next process got the chosen PID"),
        Finding("namespaces", Verdict.OK, "created one of each: uts, ipc, net, pid, mnt"),
    ]
    assert seen.findings["criu"].detail.startswith(f"{Path(os.environ['FORETHAW_CRIU']).resolve()}/criu")
    assert "Looks good" in seen.findings["criu-check"].detail
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_text_output_is_a_table_with_hints_and_a_summary() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "restore_driver", "doctor"],
        cwd=ROOT,
        env={**os.environ, "FORETHAW_CRIU": "/nowhere", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]

    assert done.returncode == 1
    assert lines[0] == "verdict check detail, and what would fix it"
    assert lines[lines.index("missing criu there is no CRIU (searched /nowhere)") + 1] == f"-> {INSTALL}"
    assert lines[-1].startswith("Missing or broken: criu, criu-check")


def test_without_criu_the_hint_names_the_script(tmp_path: Path) -> None:
    seen = doctor(environment={"FORETHAW_CRIU": "/nowhere", "PATH": tmp_path})

    assert seen.exit_code == 1
    assert seen.some("criu", "criu-check") == [
        Finding("criu", Verdict.MISSING, "there is no CRIU (searched /nowhere)", INSTALL),
        NO_CRIU,
    ]


def test_a_criu_that_is_too_old_is_reported_with_its_version(tmp_path: Path) -> None:
    old = program(tmp_path / "criu", "echo 'Version: 3.17.1'")
    seen = doctor(environment={"FORETHAW_CRIU": old})

    assert seen.some("criu", "criu-check") == [
        Finding("criu", Verdict.MISSING, f"{old} is CRIU 3.17.1, older than 4.2.0", INSTALL),
        NO_CRIU,
    ]


def test_complaints_of_a_criu_that_succeeds_are_reported(tmp_path: Path) -> None:
    text = "Error (criu/x.c:1): Nothing works"
    made = program(tmp_path / "criu", f"case $1 in --version) echo 'Version: 4.2.1' ;; *) echo '{text}' ;; esac")
    seen = doctor(environment={"FORETHAW_CRIU": made})

    assert seen.some("criu", "criu-check") == [
        Finding("criu", Verdict.OK, f"{made} is CRIU 4.2.1"),
        Finding(
            "criu-check",
            Verdict.BROKEN,
            f"`criu check` ended with 0 and printed: {text}",
            "boot a kernel with CONFIG_CHECKPOINT_RESTORE and the named features, and give root its capabilities",
        ),
    ]


def test_a_criu_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    hangs = f"sleep 1000 & echo $! >{tmp_path / 'pid'}; wait"
    made = program(tmp_path / "criu", f"case $1 in --version) echo 'Version: 4.2.1' ;; *) {hangs} ;; esac")
    seen = doctor("--patience", "0.5", environment={"FORETHAW_CRIU": made})

    checked = seen.findings["criu-check"]
    assert (checked.verdict, "did not end within 0.5 s" in checked.detail) == (Verdict.BROKEN, True)
    assert not proc.is_alive(int((tmp_path / "pid").read_text()))


def test_an_examination_leaves_no_mounts_files_or_processes(tmp_path: Path) -> None:
    """Files include CRIU's cache, processes include orphans."""
    before = mounts_near(tmp_path), sorted(Path("/run").glob("criu*"))
    with orphans_become_ours() as ours:
        seen = doctor("--state", tmp_path / "state", "--artifacts", tmp_path, environment={"TMPDIR": tmp_path})
        assert eventually(lambda: not ours(), "the end of what was started")

    assert seen.exit_code == 0
    assert before == (mounts_near(tmp_path), sorted(Path("/run").glob("criu*")))
    assert list(tmp_path.iterdir()) == []


def test_another_user_than_root_is_shown_the_skipped_checks() -> None:
    seen = as_user(1000, "doctor", "--json")

    assert seen.exit_code == 1
    assert seen.fatal() == {"root": Verdict.MISSING, "capabilities": Verdict.MISSING}
    assert seen.some("root", "criu-check", "namespaces", "agent") == [
        Finding(
            "root",
            Verdict.MISSING,
            "user 1000, not root: some checks below were skipped",
            "run it as the user that will restore: root",
        ),
        Finding("criu-check", Verdict.WARNING, "not checked: only root may run `criu check`", "run it as root"),
        Finding("namespaces", Verdict.WARNING, "not checked: only root may create namespaces", "run it as root"),
        Finding("agent", Verdict.WARNING, "not checked: only root may query the agent", "run it as root"),
    ]
    assert {name for name in ("kernel", "criu", "memory") if seen.findings[name].verdict is Verdict.OK} == {
        "kernel",
        "criu",
        "memory",
    }


def as_user(user_id: int, *words: str) -> Examination:
    """Run a command as another user, with this interpreter mounted at a readable place."""
    interpreter = Path(os.path.realpath(sys.executable))
    place = Path(tempfile.mkdtemp(prefix="python-"))
    place.chmod(0o755)

    def become() -> None:
        unshare(KINDS["mnt"])
        mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
        mount(sys.base_prefix, place, flags=MS_BIND | MS_REC)
        os.setgroups([])
        os.setresgid(user_id, user_id, user_id)
        os.setresuid(user_id, user_id, user_id)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(place / interpreter.relative_to(os.path.realpath(sys.base_prefix))), *arguments]
        paths = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            argv, cwd="/", env={**os.environ, **paths}, preexec_fn=become, capture_output=True, text=True, check=False
        )

    try:
        trial = run("-c", "import restore_driver.cli, pydantic, rich, typer")
        if trial.returncode:
            pytest.skip(f"user {user_id} cannot read this interpreter or the project: {trial.stderr.strip()[-200:]}")
        done = run("-m", "restore_driver", *words)
    finally:
        place.rmdir()
    return read(done.returncode, done.stdout)


@contextmanager
def orphans_become_ours() -> Iterator[Callable[[], list[int]]]:
    """Adopt orphaned processes while the block runs; yields a function that returns the living ones."""
    prctl = ctypes.CDLL(None).prctl
    before = set(proc.children(os.getpid()))

    def alive() -> list[int]:
        with suppress(ChildProcessError):
            for pid in set(proc.children(os.getpid())) - before:
                os.waitpid(pid, os.WNOHANG)
        return [pid for pid in proc.children(os.getpid()) if pid not in before]

    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield alive
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)
