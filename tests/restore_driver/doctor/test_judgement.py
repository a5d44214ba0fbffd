"""Verdicts from given readings, and isolation of the checks from one another; independent of the machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from restore_driver.doctor import Finding, Machine, Verdict, examine, is_fit, storage
from restore_driver.doctor.checks import SUBJECTS, Check
from restore_driver.doctor.criu import judge
from restore_driver.doctor.findings import Answer, broken, ok, summary
from restore_driver.doctor.kernel import is_gvisor
from restore_driver.doctor.namespaces import hierarchies
from restore_driver.errors import DriverError, Reason
from restore_driver.host.process import Completed

MACHINE = Machine(Path("/nowhere/forethaw"))
DIRTY = "Warn  (criu/cr-check.c:824): Dirty tracking is OFF. Memory snapshot will not work."
NO_REPAIR = "Error (criu/cr-check.c:1056): Can't turn TCP repair mode ON: Operation not permitted"
OPTIONAL = "Looks good but some kernel features are missing\nwhich, depending on your process tree, may cause\ndump"


@pytest.mark.parametrize(
    ("exit_code", "text", "verdict", "detail"),
    [
        (0, "Looks good.\n", Verdict.OK, "Looks good."),
        (0, f"{DIRTY}\nLooks good.\n", Verdict.WARNING, f"it looks good, but it printed: {DIRTY}"),
        (1, f"{DIRTY}\n{OPTIONAL}\n", Verdict.WARNING, f"some optional kernel features are missing: {DIRTY}"),
        (0, OPTIONAL, Verdict.WARNING, "some optional kernel features are missing: none is named"),
        (1, f"{NO_REPAIR}\n", Verdict.BROKEN, f"`criu check` ended with 1 and printed: {NO_REPAIR}"),
        (0, f"{NO_REPAIR}\n", Verdict.BROKEN, f"`criu check` ended with 0 and printed: {NO_REPAIR}"),
        (0, "", Verdict.BROKEN, "`criu check` ended with 0 and printed: nothing"),
        (1, "Looks good.\n", Verdict.BROKEN, "`criu check` ended with 1 and printed: Looks good."),
    ],
)
def test_crius_check_is_judged_by_exit_code_and_text(exit_code: int, text: str, verdict: Verdict, detail: str) -> None:
    answer = judge(Completed(("criu", "check"), exit_code, text, 0.1))

    assert (answer.verdict, answer.detail) == (verdict, detail)
    assert bool(answer.hint) is (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("release", "banner", "log", "expected"),
    [
        ("4.4.0", "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016", "", True),
        ("4.4.0", "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016", "[ 0.0] Starting gVisor...", True),
        ("4.19.0-gvisor", "Linux version 4.19.0-gvisor #1 SMP", "", True),
        ("4.4.0-210-generic", "Linux version 4.4.0-210-generic (buildd@lgw01) #242-Ubuntu SMP", "", False),
        ("6.18.44", "Linux version 6.18.44 (gcc 15.3.0) #1 SMP", "audit: comm=runsc", False),
    ],
)
def test_gvisor_is_detected_by_name_or_build_date(release: str, banner: str, log: str, expected: bool) -> None:
    assert is_gvisor(release, banner, log) is expected


def test_a_hybrid_machine_has_hierarchies_of_both_kinds() -> None:
    mountinfo = (
        "30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    )

    assert hierarchies(mountinfo) == (
        ("v2", "unified", Path("/sys/fs/cgroup/unified")),
        ("v1", "cpu,cpuacct", Path("/sys/fs/cgroup/cpu,cpuacct")),
    )


def test_a_check_that_raises_becomes_a_finding_and_the_others_run() -> None:
    def refuses(machine: Machine) -> Answer:
        raise DriverError(Reason.CUDA_FAILED, "the GPU has failed", "reset it")

    def crashes(machine: Machine) -> Answer:
        raise ValueError("invalid literal")

    subjects = (
        (Check("refuses", refuses), Check("after", lambda _: ok("fine"))),
        (Check("crashes", crashes), Check("last", lambda _: broken("bent", "straighten it"))),
    )
    findings = examine(MACHINE, subjects)

    assert findings == (
        Finding("refuses", Verdict.BROKEN, "the GPU has failed", "reset it"),
        Finding("after", Verdict.OK, "fine"),
        Finding(
            "crashes",
            Verdict.BROKEN,
            "the check itself failed: ValueError: invalid literal",
            "check it by hand, and report this",
        ),
        Finding("last", Verdict.BROKEN, "bent", "straighten it"),
    )
    assert not is_fit(findings)
    assert summary(findings) == "Missing or broken: refuses, crashes, last."


def test_a_check_that_hangs_is_reported_with_those_after_it() -> None:
    never = threading.Event()

    def hangs(machine: Machine) -> Answer:
        never.wait()
        return ok("at last")

    subjects = (
        (Check("first", lambda _: ok("fine")), Check("hangs", hangs), Check("behind", lambda _: ok("fine"))),
        (Check("beside", lambda _: ok("fine")),),
    )
    findings = examine(MACHINE, subjects, give_up_s=0.2)
    never.set()

    hung = (
        Verdict.BROKEN,
        "no answer within 0.2 s: this check or one before it hangs",
        "see `dmesg` and `ps`",
    )
    assert findings == (
        Finding("first", Verdict.OK, "fine"),
        Finding("hangs", *hung),
        Finding("behind", *hung),
        Finding("beside", Verdict.OK, "fine"),
    )


def test_warnings_leave_a_machine_fit() -> None:
    findings = (Finding("a", Verdict.OK, ""), Finding("b", Verdict.WARNING, ""), Finding("c", Verdict.ABSENT, ""))

    assert is_fit(findings)
    assert summary(findings) == "All that is needed is there; 1 warning."


def test_every_check_has_a_unique_name_and_a_row_in_the_document() -> None:
    names = [check.name for subject in SUBJECTS for check in subject]
    document = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text("utf-8")

    assert len(names) == len(set(names))
    assert [name for name in names if f"| `{name}`" not in document] == []


def test_little_free_space_is_a_warning_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda _: (1 << 30) - 1)
    answer = storage.artifacts(Machine(tmp_path, artifacts=tmp_path))

    assert answer == Answer(
        Verdict.WARNING,
        f"{tmp_path} has 1,073,741,823 bytes free, less than 1,073,741,824",
        "free some, or name another directory",
    )


def test_a_directory_that_others_may_write_is_broken_and_the_hint_names_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    answer = storage.state(Machine(tmp_path))

    assert answer == Answer(
        Verdict.BROKEN,
        f"--state {tmp_path}: {tmp_path} may be written by others than root",
        f"chmod go-w {tmp_path}",
    )


def test_a_missing_directory_may_be_created_below_a_sticky_directory(tmp_path: Path) -> None:
    """As in /tmp: its sticky bit keeps other users from replacing what root created."""
    tmp_path.chmod(0o1777)
    sticky = storage.state(Machine(tmp_path / "state"))
    tmp_path.chmod(0o777)
    open_to_all = storage.state(Machine(tmp_path / "state"))

    assert sticky == Answer(Verdict.OK, f"{tmp_path / 'state'}: does not exist yet; parent {tmp_path} is fine")
    assert open_to_all.verdict is Verdict.BROKEN
    assert not (tmp_path / "state").exists()
