"""Read the memory of GPUs and processes through NVML, the driver's monitoring library, within the helper.

Loaded with ctypes: seven calls that have kept their form since driver 510 need no package.
"""

from __future__ import annotations

import ctypes

from restore_driver.cuda.readings import GpuMemory, MemoryReading
from restore_driver.errors import DriverError, Reason

_NOT_AVAILABLE = (1 << 64) - 1
_INSUFFICIENT_SIZE = 7


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Nvml:
    """The library, initialized once."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            raise DriverError(Reason.CUDA_MISSING, f"NVML cannot be loaded: {error}", "install the driver") from error
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        self._call("nvmlInit_v2")

    def read(self) -> MemoryReading:
        """Return all GPUs and their processes.

        Raises:
            DriverError: CUDA_FAILED naming the call and its code.
        """
        gpus: list[GpuMemory] = []
        processes: dict[int, int | None] = {}
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        for index in range(count.value):
            device = ctypes.c_void_p()
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
            gpus.append(self._gpu(device))
            for pid, used_bytes in self._processes(device):
                others = processes.get(pid, 0)
                processes[pid] = None if used_bytes is None or others is None else others + used_bytes
        return MemoryReading(tuple(gpus), processes)

    def _gpu(self, device: ctypes.c_void_p) -> GpuMemory:
        uuid = ctypes.create_string_buffer(96)
        memory = _Memory()
        self._call("nvmlDeviceGetUUID", device, uuid, ctypes.c_uint(len(uuid)))
        self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        return GpuMemory(uuid.value.decode(), memory.total, memory.free)

    def _processes(self, device: ctypes.c_void_p) -> list[tuple[int, int | None]]:
        capacity = 64
        while True:
            count, found = ctypes.c_uint(capacity), (_Process * capacity)()
            name = "nvmlDeviceGetComputeRunningProcesses_v3"
            code = getattr(self._library, name)(device, ctypes.byref(count), found)
            if code != _INSUFFICIENT_SIZE:
                break
            capacity = 2 * max(capacity, count.value)
        if code != 0:
            raise self._failed(name, code)
        return [(one.pid, None if one.used == _NOT_AVAILABLE else one.used) for one in found[: count.value]]

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise self._failed(name, code)

    def _failed(self, name: str, code: int) -> DriverError:
        text = self._library.nvmlErrorString(code).decode(errors="replace")
        return DriverError(Reason.CUDA_FAILED, f"{name}: {text} ({code})", "see `nvidia-smi` on this machine")
