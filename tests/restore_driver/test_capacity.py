"""Work is refused exactly when it needs more than there is, with both numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.capacity import require_free_disk, require_free_gpu_memory, require_free_memory
from restore_driver.cuda import GpuMemory, MemoryReading
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import free_bytes

DEADLINE = Deadline("phase gate", 1.0, 1.0, lambda: 0.0)
sizes = st.integers(0, 1 << 50)


class Gpus:
    """As `CudaProcesses`: GPUs `a`, `b`, ... with this much memory free."""

    def __init__(self, *free_bytes: int) -> None:
        self._gpus = tuple(
            GpuMemory(uuid=uuid, total_bytes=1 << 51, free_bytes=free)
            for uuid, free in zip("abcdef", free_bytes, strict=False)
        )

    def memory(self, deadline_s: float) -> MemoryReading:
        return MemoryReading(gpus=self._gpus, processes={})


def refusal(call: Any, *arguments: Any) -> tuple[Reason, str] | None:
    try:
        call(*arguments)
    except DriverError as error:
        return error.reason, error.detail
    return None


@given(available=sizes, needed=sizes)
def test_host_memory_is_refused_exactly_when_it_does_not_suffice(available: int, needed: int) -> None:
    refused = refusal(require_free_memory, available, needed, "the image needs", "free some memory")
    sentence = f"the image needs {needed:,} bytes, {available:,} are available"

    assert refused == ((Reason.TOO_LITTLE_MEMORY, sentence) if needed > available else None)


@given(free=st.tuples(sizes, sizes, sizes), needed=sizes)
def test_gpu_memory_counts_the_replicas_own_gpus_together(free: tuple[int, int, int], needed: int) -> None:
    cuda: Any = Gpus(*free)
    refused = refusal(require_free_gpu_memory, cuda, ("a", "c"), needed, DEADLINE)

    assert (refused is not None) == (needed > free[0] + free[2])
    assert refused is None or refused[0] is Reason.TOO_LITTLE_MEMORY


def test_gpu_memory_without_cuda_or_without_a_known_need_is_not_judged() -> None:
    full: Any = Gpus(0)

    assert refusal(require_free_gpu_memory, None, ("a",), 1 << 30, DEADLINE) is None
    assert refusal(require_free_gpu_memory, full, ("a",), 0, DEADLINE) is None


def test_a_disk_is_refused_when_it_has_less_than_needed(tmp_path: Path) -> None:
    require_free_disk(tmp_path, 0, "the copy needs")
    needed = free_bytes(tmp_path) * 2 + 1
    with pytest.raises(DriverError, match=rf"free, the copy needs {needed:,}") as caught:
        require_free_disk(tmp_path, needed, "the copy needs")

    assert caught.value.reason is Reason.DISK_FULL
