"""The holder's port to a GPU: device memory that is filled from the host and exported as a descriptor.

`CudaDevice` is a GPU. `HostDevice` keeps its "device memory" in memfds: a holder on a machine without a GPU works with
it, and hands memory over by descriptor in the same way; the same contract test runs against both.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from restore_driver.errors import DriverError, Reason
from restore_driver.host.buffers import address_of

CONTEXT_MARGIN_BYTES = 512 << 20
"""Left free on a GPU besides the weights, for a restored replica's own context."""
NO_GPU = "host"
"""In place of a GPU's UUID where memfds replace its memory."""


class DeviceMemory(Protocol):
    """Memory on the device that a replica is going to own. All methods raise DriverError: WEIGHTS_FAILED."""

    def copy_from(self, source: memoryview) -> None:
        """Fill it, and return once all bytes have arrived."""

    def export(self) -> int:
        """Return a descriptor for it, which the caller closes."""

    def release(self) -> None:
        """Release our own reference; a process that imported the descriptor keeps the memory."""


class Device(Protocol):
    """One GPU. All methods raise DriverError: WEIGHTS_FAILED, TOO_LITTLE_MEMORY."""

    def free_bytes(self) -> int:
        """Return the free device memory in bytes."""

    def uuid(self) -> str | None:
        """Return its UUID as NVIDIA writes it; `NO_GPU` for memfds, None where the bindings do not provide it."""

    def granularity_bytes(self) -> int:
        """Return the number of bytes that sizes are multiples of."""

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate exportable device memory."""

    def pin(self, buffer: mmap.mmap) -> Callable[[], None]:
        """Page-lock host memory; the function that is returned undoes it."""


_COPY_BYTES = 16 << 20
"""Bytes of one copy to the GPU; the next is queued only once it has arrived. A copy engine serves another process when
a copy ends and none of the same process is queued behind it: with two or more queued, a concurrent CUDA restore waits
for the last of them (0.61 s instead of 0.30 on an H100, whatever their size). Waiting costs 7% of the rate at this size
(49 instead of 53 GB/s), 20% at a quarter of it."""


@dataclass
class HostDevice:
    """Memfds of a given total size in place of a GPU."""

    total_bytes: int
    _used_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def free_bytes(self) -> int:
        """Return the bytes that are left."""
        return self.total_bytes - self._used_bytes

    def uuid(self) -> str | None:
        """Return `NO_GPU`."""
        return NO_GPU

    def granularity_bytes(self) -> int:
        """Return the page size."""
        return mmap.PAGESIZE

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Create a memfd.

        Raises:
            DriverError: TOO_LITTLE_MEMORY.
            OSError: the host has no memory for it.
        """
        with self._lock:
            if size_bytes > self.free_bytes():
                raise DriverError(Reason.TOO_LITTLE_MEMORY, f"{size_bytes:,} bytes wanted, {self.free_bytes():,} free")
            self._used_bytes += size_bytes
        with ExitStack() as undo:
            undo.callback(self.give_back, size_bytes)
            fd = os.memfd_create("weights", os.MFD_CLOEXEC)
            undo.callback(os.close, fd)
            os.ftruncate(fd, size_bytes)
            undo.pop_all()
        return _HostMemory(self, fd, size_bytes)

    def pin(self, buffer: mmap.mmap) -> Callable[[], None]:
        """Do nothing: host memory needs no page lock here."""
        return lambda: None

    def give_back(self, size_bytes: int) -> None:
        """Count memory as free again; unlike a GPU's, even while another process has it mapped."""
        with self._lock:
            self._used_bytes -= size_bytes


@dataclass
class _HostMemory:
    device: HostDevice
    fd: int
    size_bytes: int

    def copy_from(self, source: memoryview) -> None:
        with mmap.mmap(self.fd, self.size_bytes) as target:
            target[: len(source)] = source

    def export(self) -> int:
        return os.dup(self.fd)

    def release(self) -> None:
        os.close(self.fd)
        self.device.give_back(self.size_bytes)


class CudaDevice:
    """A GPU through cuda-bindings; its primary context lives as long as the holder does."""

    def __init__(self, ordinal: int = 0) -> None:
        """Load driver and bindings, and create the context.

        Raises:
            DriverError: CUDA_MISSING naming what is missing; WEIGHTS_FAILED for an ordinal that no GPU has.
        """
        try:
            from cuda.bindings import driver

            self._cuda: Any = driver
            self._call("cuInit", 0)
        except DriverError as error:
            raise DriverError(Reason.CUDA_MISSING, error.detail, "see `nvidia-smi` on this machine") from error
        except ImportError as error:
            raise DriverError(
                Reason.CUDA_MISSING, f"cuda-bindings cannot be imported: {error}", "pip install 'forethaw[gpu]'"
            ) from error
        except Exception as error:  # the bindings' own error where there is no libcuda differs from version to version
            raise DriverError(
                Reason.CUDA_MISSING, f"libcuda cannot be loaded: {error}", "install NVIDIA's driver"
            ) from error
        self._device = self._call("cuDeviceGet", ordinal)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._enter()
        location = driver.CUmemLocation()
        location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        location.id = ordinal
        self._properties = driver.CUmemAllocationProp()
        self._properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._properties.requestedHandleTypes = (
            driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        )
        self._properties.location = location
        self._access = driver.CUmemAccessDesc()
        self._access.location = location
        self._access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE

    def free_bytes(self) -> int:
        """Return the free device memory in bytes."""
        self._enter()
        free, _ = self._call("cuMemGetInfo")
        return int(free)

    def uuid(self) -> str | None:
        """Return the UUID as `nvidia-smi -L` writes it."""
        for name in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):  # 13 renamed the second into the first
            if hasattr(self._cuda, name):
                raw = bytes(self._call(name, self._device).bytes)
                return f"GPU-{UUID(bytes=raw)}" if len(raw) == 16 else None
        return None

    def granularity_bytes(self) -> int:
        """Return the granularity of `cuMemCreate`: 2 MiB on current GPUs."""
        flag = self._cuda.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        return int(self._call("cuMemGetAllocationGranularity", self._properties, flag))

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate by `cuMemCreate`, mapped for our own copy."""
        self._enter()
        return _CudaMemory(self, size_bytes)

    def pin(self, buffer: mmap.mmap) -> Callable[[], None]:
        """Page-lock by `cuMemHostRegister`: fast on memory that is populated already, in huge pages."""
        self._enter()
        address = address_of(buffer)
        portable = self._cuda.CU_MEMHOSTREGISTER_PORTABLE
        self._call("cuMemHostRegister", address, len(buffer), portable)

        def unpin() -> None:
            self._enter()
            self._call("cuMemHostUnregister", address)

        return unpin

    def _enter(self) -> None:
        """Make the context current in this thread."""
        self._call("cuCtxSetCurrent", self._context)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._cuda, name)(*arguments)
        if code.value != 0:
            reason = Reason.TOO_LITTLE_MEMORY if code.name == "CUDA_ERROR_OUT_OF_MEMORY" else Reason.WEIGHTS_FAILED
            raise DriverError(reason, f"{name}: {code.name}")
        return values[0] if len(values) == 1 else tuple(values)


class _CudaMemory:
    def __init__(self, device: CudaDevice, size_bytes: int) -> None:
        self._device, self._size_bytes = device, size_bytes
        call = device._call
        with ExitStack() as undo:  # on a failure, undo the steps before it in reverse
            self._handle = call("cuMemCreate", size_bytes, device._properties, 0)
            undo.callback(call, "cuMemRelease", self._handle)
            self._address = call("cuMemAddressReserve", size_bytes, 0, 0, 0)
            undo.callback(call, "cuMemAddressFree", self._address, size_bytes)
            call("cuMemMap", self._address, size_bytes, 0, self._handle, 0)
            undo.callback(call, "cuMemUnmap", self._address, size_bytes)
            call("cuMemSetAccess", self._address, size_bytes, [device._access], 1)
            undo.pop_all()

    def copy_from(self, source: memoryview) -> None:
        call = self._device._call
        self._device._enter()
        stream = call("cuStreamCreate", self._device._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        try:
            address, target = address_of(source), int(self._address)
            for at in range(0, len(source), _COPY_BYTES):
                size = min(_COPY_BYTES, len(source) - at)
                call("cuMemcpyHtoDAsync", target + at, address + at, size, stream)
                call("cuStreamSynchronize", stream)
        finally:
            call("cuStreamDestroy", stream)

    def export(self) -> int:
        kind = self._device._cuda.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        return int(self._device._call("cuMemExportToShareableHandle", self._handle, kind, 0))

    def release(self) -> None:
        call = self._device._call
        self._device._enter()
        with ExitStack() as each:  # run every step even if one raises, the last first
            each.callback(call, "cuMemRelease", self._handle)
            each.callback(call, "cuMemAddressFree", self._address, self._size_bytes)
            each.callback(call, "cuMemUnmap", self._address, self._size_bytes)


def measure_pinned_rate(device: Device, size_bytes: int = 2 << 30, repeats: int = 5) -> float:
    """Return bytes per second from page-locked host memory to the device: the median of `repeats` copies.

    Raises:
        DriverError: TOO_LITTLE_MEMORY where the device has no `size_bytes` free; WEIGHTS_FAILED.
    """
    import time

    rates = []
    with mmap.mmap(-1, size_bytes) as buffer, ExitStack() as after:
        buffer[:] = bytes(size_bytes) if size_bytes < (1 << 20) else b"\1" * size_bytes
        after.callback(device.pin(buffer))
        memory = device.allocate(size_bytes)
        after.callback(memory.release)
        with memoryview(buffer) as source:
            for _ in range(repeats):
                began_s = time.perf_counter()
                memory.copy_from(source)
                rates.append(size_bytes / (time.perf_counter() - began_s))
    return sorted(rates)[repeats // 2]
