"""Memory of the host or the GPU that can not be had, or not be given back: nothing stays behind."""

from __future__ import annotations

import os
from typing import Any

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.device import HostDevice, _CudaMemory, measure_pinned_rate
from tests.restore_driver.trees import descriptors
from tests.restore_driver.weights.test_holder import GPU_BYTES, begin, close_clients

__all__ = ["begin", "close_clients"]


def test_host_memory_that_can_not_be_had_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    device, before = HostDevice(GPU_BYTES), descriptors(os.getpid())

    def fail(fd: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="No space left"):
        device.allocate(4096)

    assert (device.free_bytes(), descriptors(os.getpid())) == (GPU_BYTES, before)


@pytest.mark.parametrize("failing", ["allocate", "copy", None])
def test_a_measurement_leaves_nothing_page_locked(failing: str | None) -> None:
    pinned: list[int] = []

    class Counting(HostDevice):
        def pin(self, buffer: Any) -> Any:
            pinned.append(1)
            return pinned.pop

        def allocate(self, size_bytes: int) -> Any:
            memory: Any = super().allocate(size_bytes * (GPU_BYTES if failing == "allocate" else 1))
            if failing == "copy":
                memory.copy_from = lambda source: 1 // 0
            return memory

    device = Counting(GPU_BYTES)
    if failing is None:
        assert measure_pinned_rate(device, 1 << 20) > 0.0
    else:
        with pytest.raises((DriverError, ZeroDivisionError)):
            measure_pinned_rate(device, 1 << 20)

    assert (pinned, device.free_bytes()) == ([], GPU_BYTES)


def test_memory_that_can_not_be_unmapped_is_let_go_of_nevertheless() -> None:
    asked: list[str] = []

    class Gpu:
        _properties = _access = None

        def _enter(self) -> None:
            return

        def _call(self, name: str, *arguments: Any) -> int:
            asked.append(name)
            if name == "cuMemUnmap":
                raise DriverError(Reason.WEIGHTS_FAILED, name)
            return 1

    gpu: Any = Gpu()
    memory = _CudaMemory(gpu, 4096)
    with pytest.raises(DriverError):
        memory.release()

    assert asked[4:] == ["cuMemUnmap", "cuMemAddressFree", "cuMemRelease"]


@pytest.mark.parametrize("failing", ["cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"])
def test_partly_allocated_memory_is_released(failing: str) -> None:
    made: list[str] = []

    class Gpu:
        _properties = _access = None

        def _call(self, name: str, *arguments: Any) -> int:
            if name == failing:
                raise DriverError(Reason.TOO_LITTLE_MEMORY, name)
            made.append(name)
            return 1

    gpu: Any = Gpu()
    with pytest.raises(DriverError):
        _CudaMemory(gpu, 4096)

    forth = ["cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"]
    back = {"cuMemCreate": "cuMemRelease", "cuMemAddressReserve": "cuMemAddressFree", "cuMemMap": "cuMemUnmap"}
    done = forth[: forth.index(failing)]
    assert made == done + [back[name] for name in reversed(done)]
