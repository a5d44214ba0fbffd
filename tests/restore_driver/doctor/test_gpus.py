"""Findings for GPUs, with a stand-in nvidia-smi and the stand-in for the driver's libraries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from restore_driver.doctor import Finding, Machine, Verdict
from restore_driver.doctor.gpus import INSTALL, NO_GPU
from tests.restore_driver.doctor.conftest import Gpu, doctor, program

NAMES = ("gpus", "nvidia-driver", "cuda-helper", "cuda-checkpoint", "mig", "mps", "persistence")
NO_PROGRAM = "not on PATH; needed only where the helper does not answer"


@pytest.fixture
def no_gpu() -> None:
    """Skip the test on a machine with a GPU."""
    trace = Machine(Path("/nowhere")).nvidia_trace
    if trace:
        pytest.skip(f"this machine has a GPU: {trace}")


def test_a_machine_with_a_working_gpu_has_no_fatal_finding(gpu: Gpu) -> None:
    pytest.importorskip("cuda.bindings.driver")
    seen = doctor("--gpu", environment=gpu())
    up = seen.findings["cuda-helper"]

    assert not set(seen.fatal()) & set(NAMES)
    assert (up.verdict, up.detail.split(" s; ")[1]) == (Verdict.OK, "it reads the memory of 2 GPUs")
    assert seen.some("gpus", "nvidia-driver", "mig", "mps", "persistence") == [
        Finding("gpus", Verdict.OK, "NVIDIA H200, 150,754,820,096 bytes"),
        Finding("nvidia-driver", Verdict.OK, "driver 580.159"),
        Finding("mig", Verdict.OK, "off on every GPU"),
        Finding("mps", Verdict.OK, "no MPS among the processes that are visible here"),
        Finding("persistence", Verdict.OK, "on"),
    ]


def test_old_driver_mig_mps_and_persistence_are_reported_with_hints(gpu: Gpu, tmp_path: Path) -> None:
    """The first three prevent checkpoints; missing persistence mode is only slow."""
    server = tmp_path / "nvidia-cuda-mps-control"
    shutil.copy(shutil.which("sleep") or "", server)
    running = subprocess.Popen([server, "1000"])
    try:
        seen = doctor(environment=gpu(driver="565.57.01", mig="Enabled", persistence="Disabled"))
    finally:
        running.kill()
        running.wait()

    assert seen.exit_code == 1
    assert seen.some("nvidia-driver", "mig", "mps", "persistence") == [
        Finding(
            "nvidia-driver",
            Verdict.BROKEN,
            "driver 565.57.01 is older than 570: it has no checkpoint API",
            "install NVIDIA's driver 570 or newer",
        ),
        Finding(
            "mig",
            Verdict.BROKEN,
            "MIG is on for GPU 0: MIG instances cannot be checkpointed",
            "nvidia-smi -i 0 -mig 0, and reset them or reboot",
        ),
        Finding(
            "mps",
            Verdict.BROKEN,
            f"MPS runs (process {running.pid}): processes that use it cannot be checkpointed",
            "echo quit | nvidia-cuda-mps-control, and start the replicas again",
        ),
        Finding(
            "persistence",
            Verdict.WARNING,
            "persistence mode is off on GPU 0: the first cuInit on an idle GPU takes seconds",
            "nvidia-smi -pm 1, or run nvidia-persistenced (a resident agent or holder keeps the GPU initialised, too)",
        ),
    ]


def test_a_driver_that_hangs_in_cuinit_is_reported_after_the_patience(gpu: Gpu, stand_in: object) -> None:
    directory = gpu()["LD_LIBRARY_PATH"]
    (Path(directory) / "faults" / "init").write_text("hang")
    seen = doctor("--patience", "1", environment=gpu())

    assert seen.findings["cuda-helper"].verdict is Verdict.MISSING
    assert "no helper was up within 1 s" in seen.findings["cuda-helper"].detail


def test_the_cuda_checkpoint_program_is_used_without_bindings(gpu: Gpu, tmp_path: Path) -> None:
    """It is a warning, since each call costs a cuInit."""
    environment = gpu()
    broken = "raise ImportError('no such bindings')"
    (tmp_path / "shadow" / "cuda" / "bindings").mkdir(parents=True)
    (tmp_path / "shadow" / "cuda" / "bindings" / "driver.py").write_text(broken)
    for package in ("cuda", "cuda/bindings"):
        (tmp_path / "shadow" / package / "__init__.py").touch()
    program(tmp_path / "programs" / "cuda-checkpoint", """echo 'Could not get state: "invalid argument"'; exit 1""")
    seen = doctor(environment={**environment, "PYTHONPATH": tmp_path / "shadow"})

    assert seen.some("cuda-helper", "cuda-checkpoint") == [
        Finding(
            "cuda-helper",
            Verdict.WARNING,
            "the cuda-checkpoint program is used instead, and each call costs a cuInit: CudaMissing: cuda-bindings "
            "cannot be imported: no such bindings; pip install 'forethaw[gpu]'",
            "pip install 'forethaw[gpu]'",
        ),
        Finding("cuda-checkpoint", Verdict.OK, str(tmp_path / "programs" / "cuda-checkpoint")),
    ]


def test_a_machine_without_a_gpu_is_fit_unless_one_is_needed(no_gpu: None) -> None:
    plain, needed = doctor(), doctor("--gpu")

    assert plain.some(*NAMES) == [
        Finding(name, Verdict.ABSENT, NO_PROGRAM if name == "cuda-checkpoint" else NO_GPU) for name in NAMES
    ]
    assert needed.exit_code == 1
    assert needed.some("gpus", "nvidia-driver", "cuda-helper", "mig") == [
        Finding("gpus", Verdict.MISSING, NO_GPU, INSTALL),
        Finding("nvidia-driver", Verdict.MISSING, NO_GPU, INSTALL),
        Finding("cuda-helper", Verdict.MISSING, NO_GPU, INSTALL),
        Finding("mig", Verdict.ABSENT, NO_GPU),
    ]
