"""Hooks that are programs, run where and as the replica runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from restore_driver.engines import ProcessRoot, quiesce, resume
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.replica_spec import ExecEngine


def engine(script: str) -> ExecEngine:
    return ExecEngine(kind="exec", quiesce=("sh", "-c", script), resume=("sh", "-c", script))


def at(pid: int) -> ProcessRoot:
    return ProcessRoot(pid, Path(f"/proc/{pid}/root"))


def test_it_is_the_replicas_user_host_directory_and_environment(stranger: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIVERS_SECRET", "hidden")
    script = 'echo "$(id -u) $(id -G) $(hostname) $(pwd) $MARK $DRIVERS_SECRET." && exit 3'
    with pytest.raises(DriverError) as caught:
        quiesce(engine(script), at(stranger), 5.0)

    assert caught.value.reason is Reason.QUIESCE_FAILED
    assert caught.value.detail.endswith("ended with exit code 3: 1000 1001 1002 stranger /usr left .")


def test_a_hook_that_succeeds_says_so(stranger: int) -> None:
    assert resume(engine("true"), at(stranger), 5.0) == {"engine": "exec", "program": "sh", "exit_code": 0}


def test_a_program_that_is_not_there_is_named(stranger: int) -> None:
    spec = ExecEngine(kind="exec", quiesce=("/no/such",), resume=("/no/such",))
    with pytest.raises(DriverError) as caught:
        resume(spec, at(stranger), 5.0)

    assert (caught.value.reason, caught.value.detail) == (
        Reason.RESUME_FAILED,
        "/no/such is not in the replica's file system",
    )


def test_a_hang_is_killed_at_the_deadline(stranger: int) -> None:
    with pytest.raises(DriverError) as caught:
        quiesce(engine("sleep 60"), at(stranger), 0.3)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED


def test_a_replica_that_is_gone_is_lost() -> None:
    with pytest.raises(DriverError) as caught:
        quiesce(engine("true"), at(2**22 - 1), 5.0)
    assert caught.value.reason is Reason.REPLICA_LOST
