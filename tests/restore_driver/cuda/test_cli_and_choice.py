"""The fallback program's words, its deadline, and who is chosen."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from restore_driver.cuda import Cli, HelperClient, NotCuda, open_cuda
from restore_driver.cuda.cli import read_failure
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.cuda.conftest import StandIn

LONG_S = 30.0


@pytest.mark.parametrize(
    ("command", "output", "kind", "reason"),
    [
        (
            "cuda-checkpoint --get-state --pid 7",
            'Could not get state of process ID 7: "invalid argument"',
            NotCuda,
            Reason.CUDA_FAILED,
        ),
        (
            "cuda-checkpoint --action restore --pid 7",
            'Could not restore on process ID 7: "invalid argument"',
            DriverError,
            Reason.CUDA_FAILED,
        ),
        (
            "cuda-checkpoint --action lock --pid 7 --timeout 5",
            'Could not lock on process ID 7: "device not ready"',
            DriverError,
            Reason.DEADLINE_EXCEEDED,
        ),
        (
            "cuda-checkpoint --get-state --pid 7",
            'Error initializing CUDA: "OS call failed or operation not supported on this OS"',
            DriverError,
            Reason.CUDA_MISSING,
        ),
    ],
)
def test_failures_keep_the_programs_output(command: str, output: str, kind: type[DriverError], reason: Reason) -> None:
    failed = read_failure(command, 1, output + "\n")

    assert (type(failed), failed.reason, failed.detail) == (kind, reason, f"{command}: {output}")


def test_silent_failure_names_its_exit_code() -> None:
    failed = read_failure("cuda-checkpoint --action unlock --pid 7", 139, "")

    assert failed.detail == "cuda-checkpoint --action unlock --pid 7: it ended with 139 and printed nothing"


def test_arguments_reach_the_driver(stand_in: StandIn) -> None:
    """The lock's time in milliseconds and the map, as the program takes them."""
    subject = stand_in.spawn()
    program = stand_in.cli()
    first, second = (f"GPU-00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
    program.lock(subject.pid, 10.0)
    program.checkpoint(subject.pid, LONG_S)
    program.restore(subject.pid, {first: second}, LONG_S)

    assert stand_in.calls() == [
        f"lock {subject.pid} timeout_ms=9000",
        f"checkpoint {subject.pid}",
        f"restore {subject.pid} {'1'.zfill(32)}>{'2'.zfill(32)}",
    ]


def test_hung_program_is_killed_at_its_deadline(stand_in: StandIn) -> None:
    subject = stand_in.spawn()
    stand_in.fault("lock", subject.pid, "hang")
    with pytest.raises(DriverError) as missed:
        stand_in.cli().lock(subject.pid, 1.0)

    assert missed.value.reason is Reason.DEADLINE_EXCEEDED


def test_helper_is_preferred(stand_in: StandIn) -> None:
    pytest.importorskip("cuda.bindings.driver")
    found, why_not = open_cuda(library_path=stand_in.directory)
    assert found is not None
    try:
        assert (type(found), why_not) == (HelperClient, "")
    finally:
        found.close()


def test_program_is_the_fallback(stand_in: StandIn) -> None:
    """With the reason why it is not the helper."""
    (stand_in.directory / "faults" / "init").write_text("100")
    program = stand_in.cli().program
    found, why_not = open_cuda(library_path=stand_in.directory, program=program)

    assert found == Cli(program)
    assert why_not.startswith("CudaMissing: ")


def test_returns_none_without_helper_and_cli(tmp_path: Path) -> None:
    """Both reasons are reported."""
    library, program = tmp_path / "libcuda.so.1", tmp_path / "cuda-checkpoint"
    library.write_text("no library")
    found, why_not = open_cuda(library_path=tmp_path, program=str(program))
    helper, _, fallback = why_not.rpartition("; ")

    assert (found, fallback) == (None, f"CudaMissing: {program} does not exist")
    assert helper.startswith("CudaMissing: ")


def test_program_may_be_preferred(stand_in: StandIn) -> None:
    program = stand_in.cli().program
    assert os.stat(program).st_mode & stat.S_IXUSR

    assert open_cuda("cli", program=program) == (Cli(program), "")
