"""Check NVIDIA GPUs: models, driver, CUDA checkpoint backend, and settings that prevent checkpoints.

A machine without any sign of NVIDIA is fit for replicas without a GPU: then all of these are absent, unless `--gpu`
requires them.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from restore_driver.cuda import HelperClient, NotCuda, open_cuda
from restore_driver.doctor.findings import Answer, absent, broken, missing, ok, warning
from restore_driver.doctor.machine import DRIVER_VERSION, Machine

OLDEST_DRIVER = 570
"""The first with cuCheckpointProcess* in its API; 550 to 565 have only cuda-checkpoint's --toggle, which has neither a
timeout nor a readable state."""

NO_GPU = "this machine has no NVIDIA GPU"
INSTALL = f"install NVIDIA's driver {OLDEST_DRIVER} or newer, or give the container its GPU (NVIDIA container toolkit)"
_MPS_NAME = "nvidia-cuda-mps"
"""Name of both the control daemon and the server, cut to the 15 characters that the kernel keeps."""


def models(machine: Machine) -> Answer:
    """Check that nvidia-smi lists the GPUs; report model and memory of each."""
    gpus, _ = machine.gpus_and_driver
    if not machine.nvidia_trace:
        return _without(machine)
    if not gpus:
        return broken(f"nvidia-smi shows no GPU, though {machine.nvidia_trace}", f"see `nvidia-smi`; {INSTALL}")
    return ok("; ".join(f"{gpu.model}, {gpu.memory_bytes:,} bytes" for gpu in gpus))


def driver(machine: Machine) -> Answer:
    """Check that the driver is new enough for the checkpoint API."""
    if not machine.nvidia_trace:
        return _without(machine)
    version = machine.gpus_and_driver[1] or _loaded_version()
    if version is None:
        return missing(f"no driver answers, though {machine.nvidia_trace}", INSTALL)
    if int(version.split(".")[0]) < OLDEST_DRIVER:
        return broken(
            f"driver {version} is older than {OLDEST_DRIVER}: it has no checkpoint API",
            f"install NVIDIA's driver {OLDEST_DRIVER} or newer",
        )
    return ok(f"driver {version}")


def helper(machine: Machine) -> Answer:
    """Start the CUDA helper as the agent does; query a process without CUDA and the memory of the GPUs."""
    if not machine.nvidia_trace:
        return _without(machine)
    began_s = time.monotonic()
    cuda, why_not = open_cuda(deadline_s=machine.patience_s)
    if cuda is None:
        return missing(why_not, "pip install 'forethaw[gpu]', and see `nvidia-driver` above")
    try:
        with suppress(NotCuda):
            cuda.state(os.getpid(), machine.patience_s)
        count = len(cuda.memory(machine.patience_s).gpus)
    finally:
        cuda.close()
    if not isinstance(cuda, HelperClient):
        return warning(
            f"the cuda-checkpoint program is used instead, and each call costs a cuInit: {why_not}",
            "pip install 'forethaw[gpu]'",
        )
    return ok(f"started and queried in {time.monotonic() - began_s:.1f} s; it reads the memory of {count} GPUs")


def program(machine: Machine) -> Answer:
    """Look for the cuda-checkpoint program, the fallback where cuda-bindings is missing."""
    found = shutil.which("cuda-checkpoint")
    return ok(found) if found else absent("not on PATH; needed only where the helper does not answer")


def mig(machine: Machine) -> Answer:
    """Check that MIG is off: an instance of a GPU cannot be checkpointed."""
    if not machine.nvidia_trace:
        return absent(NO_GPU)
    if not machine.gpu_modes:
        return warning("nvidia-smi does not report it", "see `nvidia-smi -q -d MIG`")
    split = [mode.index for mode in machine.gpu_modes if mode.mig == "Enabled"]
    if split:
        return broken(
            f"MIG is on for GPU {', '.join(split)}: MIG instances cannot be checkpointed",
            f"nvidia-smi -i {','.join(split)} -mig 0, and reset them or reboot",
        )
    return ok("off on every GPU")


def mps(machine: Machine) -> Answer:
    """Check that no MPS runs: a process that shares a context by MPS cannot be checkpointed."""
    if not machine.nvidia_trace:
        return absent(NO_GPU)
    found = _processes_named(_MPS_NAME)
    if found:
        return broken(
            f"MPS runs (process {found[0]}): processes that use it cannot be checkpointed",
            "echo quit | nvidia-cuda-mps-control, and start the replicas again",
        )
    return ok("no MPS among the processes that are visible here")


def persistence(machine: Machine) -> Answer:
    """Check persistence mode, without which the driver deinitialises an unused GPU."""
    if not machine.nvidia_trace:
        return absent(NO_GPU)
    if not machine.gpu_modes:
        return warning("nvidia-smi does not report it", "see `nvidia-smi -q`")
    off = [mode.index for mode in machine.gpu_modes if mode.persistence == "Disabled"]
    if off:
        return warning(
            f"persistence mode is off on GPU {', '.join(off)}: the first cuInit on an idle GPU takes seconds",
            "nvidia-smi -pm 1, or run nvidia-persistenced (a resident agent or holder keeps the GPU initialised, too)",
        )
    return ok("on")


def _without(machine: Machine) -> Answer:
    return missing(NO_GPU, INSTALL) if machine.gpu else absent(NO_GPU)


def _loaded_version() -> str | None:
    """Return the version of the loaded kernel module, for machines without nvidia-smi."""
    with suppress(OSError):
        match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", DRIVER_VERSION.read_text())
        return match[1] if match else None
    return None


def _processes_named(name: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended since
                if (entry / "comm").read_text().startswith(name):
                    found.append(int(entry.name))
    return found
