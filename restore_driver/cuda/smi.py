"""Read GPUs, their memory and its holders from nvidia-smi, where NVML is not loaded."""

from __future__ import annotations

import re

from restore_driver.cuda.readings import GpuMemory, MemoryReading
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import process

_MIB = 1 << 20


def gpu_uuids(deadline_s: float, program: str = "nvidia-smi") -> tuple[str, ...]:
    """Return the UUIDs of this machine's GPUs in the driver's order.

    Raises:
        DriverError: CUDA_MISSING; DEADLINE_EXCEEDED.
    """
    return tuple(
        re.findall(r"^GPU \d+: .*\(UUID: (GPU-[0-9a-f-]+)\)$", _run((program, "-L"), deadline_s), re.MULTILINE)
    )


def read_memory(deadline_s: float, program: str = "nvidia-smi") -> MemoryReading:
    """Return all GPUs and their processes, in whole MiB as nvidia-smi rounds them.

    Raises:
        DriverError: CUDA_MISSING; DEADLINE_EXCEEDED.
    """
    form = "--format=csv,noheader,nounits"
    deadline = Deadline.after(program, deadline_s)
    gpus = _run((program, "--query-gpu=uuid,memory.total,memory.free", form), deadline.left_s())
    processes = _run((program, "--query-compute-apps=pid,used_memory", form), deadline.left_s())
    return MemoryReading(parse_gpus(gpus), parse_processes(processes))


def parse_gpus(text: str) -> tuple[GpuMemory, ...]:
    """Parse lines of `uuid, total, free` in MiB, one GPU a line.

    Raises:
        DriverError: CUDA_FAILED for a line of another form.
    """
    rows = [[word.strip() for word in line.split(",")] for line in text.splitlines() if line.startswith("GPU-")]
    try:
        return tuple(GpuMemory(uuid, int(total) * _MIB, int(free) * _MIB) for uuid, total, free in rows)
    except ValueError as error:
        raise DriverError(Reason.CUDA_FAILED, f"nvidia-smi printed {text!r:.200}: {error}") from error


def parse_processes(text: str) -> dict[int, int | None]:
    """Parse lines of `pid, used` in MiB, one process and GPU a line; other amounts, such as `[N/A]`, become None."""
    found: dict[int, int | None] = {}
    for pid_word, used_word in re.findall(r"^(\d+), *(.+?) *$", text, re.MULTILINE):
        pid, others = int(pid_word), found.get(int(pid_word), 0)
        found[pid] = others + int(used_word) * _MIB if used_word.isdigit() and others is not None else None
    return found


def _run(argv: tuple[str, ...], deadline_s: float) -> str:
    try:
        ended = process.run(argv, deadline_s=deadline_s)
    except DriverError as error:
        if error.reason is Reason.REQUEST_INVALID:
            raise DriverError(Reason.CUDA_MISSING, f"{argv[0]} does not exist", "install NVIDIA's driver") from error
        raise
    if ended.exit_code != 0:
        raise DriverError(
            Reason.CUDA_MISSING, f"{argv[0]} ended with {ended.exit_code}: {ended.output.strip()}", "fix the driver"
        )
    return ended.output
