"""Refuse work for which a disk, the host's memory or the GPUs have too little space, before anything is touched.

What runs out of space halfway has to be rolled back, and a CUDA restore that runs out of GPU memory is final: the
replica is lost. The readings themselves are `host/disk.py`, `host/meminfo.py` and `CudaProcesses.memory`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import free_bytes

if TYPE_CHECKING:  # staging an artifact needs no CUDA
    from restore_driver.cuda import CudaProcesses


def require_free_disk(directory: Path, needed_bytes: int, what: str, hint: str = "free some space") -> None:
    """Refuse a directory whose file system has less than `needed_bytes` free; `what` names the need.

    Raises:
        DriverError: DISK_FULL with both numbers.
    """
    free = free_bytes(directory)
    if free < needed_bytes:
        raise DriverError(Reason.DISK_FULL, f"{directory} has {free:,} bytes free, {what} {needed_bytes:,}", hint)


def require_free_memory(available_bytes: int, needed_bytes: int, what: str, hint: str) -> None:
    """Refuse a host with less than `needed_bytes` of memory available; `what` names the need.

    Raises:
        DriverError: TOO_LITTLE_MEMORY with both numbers.
    """
    if available_bytes < needed_bytes:
        raise DriverError(
            Reason.TOO_LITTLE_MEMORY, f"{what} {needed_bytes:,} bytes, {available_bytes:,} are available", hint
        )


def require_free_gpu_memory(
    cuda: CudaProcesses | None, uuids: Collection[str], needed_bytes: int, deadline: Deadline
) -> None:
    """Refuse GPUs that together have less memory free than a replica held before.

    It held weights, KV cache and contexts, and takes all of them again. `needed_bytes` is 0 where the list of
    processes did not show the replica (in some containers): then CUDA or the holder fails later instead.

    Raises:
        DriverError: TOO_LITTLE_MEMORY with both numbers.
    """
    if not needed_bytes or cuda is None:
        return
    free = sum(gpu.free_bytes for gpu in cuda.memory(deadline.left_s()).cards if gpu.uuid in uuids)
    if free < needed_bytes:
        raise DriverError(
            Reason.TOO_LITTLE_MEMORY,
            f"the replica held {needed_bytes:,} bytes of device memory, {free:,} are free",
            "park or end a replica on the GPU",
        )
