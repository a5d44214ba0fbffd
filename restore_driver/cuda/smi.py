"""What nvidia-smi says of this machine's GPUs, their memory and who holds it: for those who don't load NVML."""

from __future__ import annotations

import re

from restore_driver.cuda.readings import GpuMemory, MemoryReading
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import process

_MIB = 1 << 20


def gpu_uuids(deadline_s: float, program: str = "nvidia-smi") -> tuple[str, ...]:
    """UUIDs of this machine's GPUs in the driver's order.

    Raises:
        DriverError: CUDA_MISSING; DEADLINE_EXCEEDED.
    """
    return tuple(re.findall(r"^GPU \d+: .*\(UUID: (GPU-[0-9a-f-]+)\)$", _ask((program, "-L"), deadline_s), re.M))


def read_memory(deadline_s: float, program: str = "nvidia-smi") -> MemoryReading:
    """All cards and their processes, in whole MiB as nvidia-smi rounds them.

    Raises:
        DriverError: CUDA_MISSING; DEADLINE_EXCEEDED.
    """
    form = "--format=csv,noheader,nounits"
    deadline = Deadline.after(program, deadline_s)
    cards = _ask((program, "--query-gpu=uuid,memory.total,memory.free", form), deadline.left_s())
    processes = _ask((program, "--query-compute-apps=pid,used_memory", form), deadline.left_s())
    return MemoryReading(parse_gpus(cards), parse_processes(processes))


def parse_gpus(text: str) -> tuple[GpuMemory, ...]:
    """`uuid, total, free` in MiB, one card a line."""
    rows = [[word.strip() for word in line.split(",")] for line in text.splitlines() if line.startswith("GPU-")]
    return tuple(GpuMemory(uuid, int(total) * _MIB, int(free) * _MIB) for uuid, total, free in rows)


def parse_processes(text: str) -> dict[int, int | None]:
    """`pid, used` in MiB, one process and card a line; `[N/A]` where the amount is not told."""
    found: dict[int, int | None] = {}
    for pid_word, used_word in re.findall(r"^(\d+), *(.+?) *$", text, re.M):
        pid, others = int(pid_word), found.get(int(pid_word), 0)
        found[pid] = others + int(used_word) * _MIB if used_word.isdigit() and others is not None else None
    return found


def _ask(argv: tuple[str, ...], deadline_s: float) -> str:
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
