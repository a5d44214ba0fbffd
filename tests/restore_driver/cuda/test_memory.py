"""The proof that a parked process's device memory is free, and nvidia-smi's texts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from restore_driver.cuda import GpuMemory, HelperClient, MemoryProof, MemoryReading, gpu_uuids
from restore_driver.cuda.memory import open_device_files
from restore_driver.cuda.smi import parse_gpus, parse_processes, read_memory
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.cuda.conftest import StandIn

MIB = 1 << 20
OWN = "GPU-00000000-0000-0000-0000-000000000001"
OTHER = "GPU-00000000-0000-0000-0000-000000000002"
PID = 1 << 22  # above the highest PID: it has no files open


def reading(free_mib: int, processes: dict[int, int | None]) -> MemoryReading:
    return MemoryReading((GpuMemory(OWN, 1024 * MIB, free_mib * MIB),), processes)


def proof(before: MemoryReading, after: MemoryReading) -> dict[str, Any]:
    """The proof's answer for two readings."""
    readings = iter([before])
    return MemoryProof((PID,), next(readings, after), lambda deadline_s: next(readings, after)).after(0.6)


def test_process_list_is_the_witness_where_it_names_the_process() -> None:
    """The list of processes is the witness, whatever others did to the GPU meanwhile."""
    assert proof(reading(500, {PID: 300 * MIB, 1: MIB}), reading(400, {1: 400 * MIB})) == {
        "witness": "process-list",
        "held_before_bytes": 300 * MIB,
        "freed_bytes": 0,
        "gpus": [],
        "free_bytes": {OWN: 400 * MIB},
    }


def test_free_memory_is_the_witness_where_no_process_is_listed() -> None:
    """In a container the list is empty: then the GPU must show it."""
    assert proof(reading(500, {}), reading(800, {})) == {
        "witness": "free-memory",
        "held_before_bytes": 0,
        "freed_bytes": 300 * MIB,
        "gpus": ["GPU-00000000-0000-0000-0000-000000000001"],
        "free_bytes": {OWN: 800 * MIB},
    }


@pytest.mark.parametrize(
    ("before", "after", "doubt"),
    [
        (
            reading(500, {PID: 300 * MIB}),
            reading(799, {PID: MIB}),
            f"process {PID} still holds 1,048,576 bytes",
        ),
        (
            reading(500, {PID: None}),
            reading(799, {PID: None}),
            f"process {PID} still holds an unknown number of bytes",
        ),
        (
            reading(500, {}),
            reading(501, {}),
            f"processes [{PID}] were listed on no GPU, and free memory grew by 1,048,576 bytes",
        ),
        (
            reading(500, {}),
            reading(100, {}),
            f"processes [{PID}] were listed on no GPU, and free memory grew by 0 bytes",
        ),
    ],
)
def test_memory_still_held_or_not_freed_is_refused(before: MemoryReading, after: MemoryReading, doubt: str) -> None:
    with pytest.raises(DriverError) as refused:
        proof(before, after)

    assert (refused.value.reason, refused.value.detail) == (Reason.CUDA_FAILED, doubt)


def test_witness_may_lag_behind() -> None:
    """The list still names it on the first look, and no more on the second."""
    readings = iter([reading(500, {PID: 9}), reading(500, {PID: 9}), reading(800, {})])

    found = MemoryProof((PID,), next(readings), lambda deadline_s: next(readings)).after(10.0)
    assert found["witness"] == "process-list"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount namespace of its own")
def test_open_device_file_is_refused_whatever_the_readings() -> None:
    """A context lives by the device's file: no list and no number outweighs it."""
    script = "mount -t tmpfs none /dev && touch /dev/nvidia0 && exec 5</dev/nvidia0 && echo open && exec cat"
    command = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        held = open_device_files(child.pid)
        readings = iter([reading(500, {child.pid: 9})])
        before = MemoryProof((child.pid,), next(readings), lambda deadline_s: next(readings, reading(900, {})))
        with pytest.raises(DriverError) as refused:
            before.after(0.6)

    assert held == ("/dev/nvidia0",)
    assert refused.value.detail == f"process {child.pid} still holds /dev/nvidia0 open"


def test_a_reading_sums_the_reported_memory_of_processes() -> None:
    found = reading(500, {1: 3, 2: None, 3: 4})

    assert found.process_memory_bytes((1, 2, 3, 9)) == 7


def test_parses_the_processes_of_nvidia_smi() -> None:
    """One line a process and GPU; the amount may be kept back."""
    text = "101, 512\n102, [N/A]\n101, 256\n103, [Not Supported]\n"

    assert parse_processes(text) == {101: 768 * MIB, 102: None, 103: None}
    assert parse_processes("\n") == {}


def test_parses_the_gpus_of_nvidia_smi() -> None:
    text = f"{OWN}, 143771, 143000\n{OTHER}, 143771, 17\n"

    assert parse_gpus(text) == (
        GpuMemory(OWN, 143771 * MIB, 143000 * MIB),
        GpuMemory(OTHER, 143771 * MIB, 17 * MIB),
    )


def test_nvml_and_nvidia_smi_agree(stand_in: StandIn, client: HelperClient) -> None:
    """Both roads to the same numbers."""
    subject, gone = stand_in.spawn(), stand_in.spawn()
    stand_in.set_state(gone.pid, "checkpointed")
    expected = MemoryReading(
        (GpuMemory(OWN, 1024 * MIB, 960 * MIB), GpuMemory(OTHER, 1024 * MIB, 1024 * MIB)), {subject.pid: 64 * MIB}
    )

    assert client.memory(30.0) == expected
    assert stand_in.cli().memory(30.0) == expected
    assert gpu_uuids(30.0, stand_in.cli().smi_program) == (OWN, OTHER)


def test_missing_nvidia_smi(tmp_path: Path) -> None:
    with pytest.raises(DriverError) as missing:
        read_memory(1.0, str(tmp_path / "nvidia-smi"))

    assert missing.value.reason is Reason.CUDA_MISSING
