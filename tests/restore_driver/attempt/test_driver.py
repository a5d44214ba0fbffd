"""Each type of request walks its own sequence, and its result names sequence, phase and fallback."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from restore_driver.compat.fingerprint import Fingerprint
from restore_driver.driver import Driver
from restore_driver.state_directory import StateDirectory
from restore_driver.toolset import Toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import AnyRequest, CheckpointRequest, ParkRequest, RestoreRequest, UnparkRequest

NO_PROCESS = 2**22 + 1
"""Above the kernel's highest PID."""
MACHINE = Fingerprint(arch="x86_64", kernel="6.18", cpu_features=(), glibc="2.36")
REQUESTS: list[tuple[AnyRequest, str, str, str | None]] = [
    (
        CheckpointRequest(pid=NO_PROCESS, artifact=Path("/nowhere/a"), replica=ReplicaSpec()),
        "checkpoint",
        "ReplicaLost",
        None,
    ),
    (
        CheckpointRequest(pid=NO_PROCESS, artifact=Path("/nowhere/a"), replica=ReplicaSpec(), leave_running=False),
        "checkpoint-and-end",
        "ReplicaLost",
        None,
    ),
    (RestoreRequest(artifact=Path("/nowhere/a"), placeholder_pid=NO_PROCESS), "restore", "CriuMissing", "cold-start"),
    (ParkRequest(pid=NO_PROCESS, replica=ReplicaSpec()), "park", "ReplicaLost", None),
    (UnparkRequest(pid=NO_PROCESS), "unpark", "RequestInvalid", None),
]


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    """A driver on a machine with neither CRIU nor a GPU."""
    return Driver(Toolset(StateDirectory(tmp_path), None, None, "this machine shows no GPU", machine=MACHINE))


@pytest.mark.parametrize(
    ("request_", "sequence", "reason", "fallback"), REQUESTS, ids=[sequence for _, sequence, _, _ in REQUESTS]
)
def test_each_request_is_refused_at_the_gate_of_its_own_sequence(
    request_: AnyRequest, sequence: str, reason: str, fallback: str | None, driver: Driver, tmp_path: Path
) -> None:
    result = driver.carry_out(request_)

    assert (result.sequence, result.outcome, result.phase) == (sequence, "refused", "gate")
    assert (result.reason, result.fallback) == (reason, fallback)
    assert list(tmp_path.rglob("*")) == []


def test_every_type_of_request_is_tested() -> None:
    union, *_ = get_args(AnyRequest)

    assert {type(request) for request, *_ in REQUESTS} == set(get_args(union))
