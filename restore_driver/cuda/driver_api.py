"""NVIDIA's checkpoint calls through cuda-bindings; no other module knows that package's checkpoint API.

`cuda.bindings` is compiled and untyped, so it is imported by name and held as `Any`; nothing untyped leaves this
module. It runs within the helper only: a call may hang, and `cuInit` opens devices for the life of a process.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from restore_driver.cuda.gpu_map import DeviceMap, uuid_to_bytes
from restore_driver.cuda.ports import NotCuda
from restore_driver.cuda.states import CudaAction, CudaState, Order
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.buffers import copy_to_address

_NOT_CUDA = ("CUDA_ERROR_INVALID_VALUE", "CUDA_ERROR_NOT_INITIALIZED", "CUDA_ERROR_NOT_FOUND")
"""Codes for a process without CUDA. `not initialized` is that process's state and not ours: an `Api` exists only once
our own cuInit has succeeded."""

_HINTS = {
    "CUDA_ERROR_NOT_SUPPORTED": "driver 570 or newer, x86-64 or arm64; no MIG, no MPS, no managed (UVM) memory",
    "CUDA_ERROR_OUT_OF_MEMORY": "a restore that ran out of device memory is final: end the process and replace it",
    "CUDA_ERROR_ILLEGAL_STATE": "look at the process's state; another program may have moved it",
}


class Api:
    """The driver after cuInit; safe for several threads."""

    def __init__(self) -> None:
        """Load driver and bindings.

        Raises:
            DriverError: CUDA_MISSING naming what is not there.
        """
        try:
            self._driver: Any = import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DriverError(
                Reason.CUDA_MISSING, f"cuda-bindings cannot be imported: {error}", "pip install 'forethaw[gpu]'"
            ) from error
        try:
            (code,) = self._driver.cuInit(0)
        except Exception as error:  # the bindings' own error where there is no libcuda differs from version to version
            raise DriverError(
                Reason.CUDA_MISSING, f"libcuda cannot be loaded: {error}", "install NVIDIA's driver"
            ) from error
        if code.name != "CUDA_SUCCESS":
            raise DriverError(Reason.CUDA_MISSING, f"cuInit: {code.name}", "see `nvidia-smi` on this machine")

    def version(self) -> int:
        """Return the driver's CUDA version, 12080 for 12.8.

        Raises:
            DriverError: CUDA_FAILED.
        """
        return int(self._call("cuDriverGetVersion"))

    def state(self, pid: int) -> CudaState:
        """Return the CUDA state of a process.

        Raises:
            DriverError: `NotCuda`; CUDA_FAILED.
        """
        try:
            state = self._call("cuCheckpointProcessGetState", pid)
        except ValueError:  # the first bindings read the state even when the call has failed
            self._call("cuCheckpointProcessGetRestoreThreadId", pid)
            raise DriverError(Reason.CUDA_FAILED, f"process {pid} is in a state unknown to these bindings") from None
        name = state.name.removeprefix("CU_PROCESS_STATE_").lower()
        if name not in list(CudaState):
            raise DriverError(
                Reason.CUDA_FAILED, f"process {pid} is {name}", "another program moves its memory; let it end"
            )
        return CudaState(name)

    def restore_thread(self, pid: int) -> int:
        """Return the thread of a CUDA process that must run for a restore.

        Raises:
            DriverError: `NotCuda`; CUDA_FAILED.
        """
        return int(self._call("cuCheckpointProcessGetRestoreThreadId", pid))

    def act(self, order: Order) -> None:
        """Make one call.

        Raises:
            DriverError: CUDA_FAILED naming call, process and code; DEADLINE_EXCEEDED for a lock's timeout.
        """
        match order.action:
            case CudaAction.LOCK:
                self._call("cuCheckpointProcessLock", order.pid, self._lock_args(order.timeout_s))
            case CudaAction.CHECKPOINT:
                self._call("cuCheckpointProcessCheckpoint", order.pid, None)
            case CudaAction.RESTORE:
                self._call("cuCheckpointProcessRestore", order.pid, self._restore_args(order.device_map))
            case CudaAction.UNLOCK:
                self._call("cuCheckpointProcessUnlock", order.pid, None)

    def _lock_args(self, timeout_s: float | None) -> Any:
        if timeout_s is None:
            return None
        arguments = self._driver.CUcheckpointLockArgs()
        arguments.timeoutMs = max(1, int(1000 * timeout_s))  # the driver takes 0 for `wait for ever`
        return arguments

    def _restore_args(self, device_map: DeviceMap | None) -> Any:
        if device_map is None:
            return None
        if not hasattr(self._driver, "CUcheckpointGpuPair"):
            raise DriverError(
                Reason.CUDA_FAILED,
                "these cuda-bindings cannot restore to other GPUs",
                "install cuda-bindings 13 or newer, or restore on the snapshot's own GPUs",
            )
        pairs = [self._pair(old, new) for old, new in device_map.items()]
        arguments = self._driver.CUcheckpointRestoreArgs()
        arguments.gpuPairs = pairs
        arguments.gpuPairsCount = len(pairs)
        return arguments

    def _pair(self, old: str, new: str) -> Any:
        """Return a pair of UUIDs, written as 32 bytes: the bindings' own UUID cannot be assigned."""
        pair = self._driver.CUcheckpointGpuPair()
        copy_to_address(pair.getPtr(), uuid_to_bytes(old) + uuid_to_bytes(new))
        return pair

    def _call(self, name: str, *arguments: Any) -> Any:
        """Return the call's one result, or None; every code but success becomes an error."""
        try:
            code, *results = getattr(self._driver, name)(*arguments)
        except (AttributeError, RuntimeError) as error:
            raise DriverError(
                Reason.CUDA_MISSING, f"{name} is missing: {error}", "driver 570, cuda-bindings 12.8, or newer"
            ) from error
        if code.name != "CUDA_SUCCESS":
            raise _failed(name, code.name, arguments[0] if arguments else None)
        return results[0] if results else None


def _failed(call: str, code: str, pid: int | None) -> DriverError:
    what = call if pid is None else f"{call} of process {pid}"
    no_process = code == "CUDA_ERROR_OPERATING_SYSTEM" and pid is not None and not proc.is_alive(pid)
    if (code in _NOT_CUDA or no_process) and call.startswith("cuCheckpointProcessGet"):
        return NotCuda(Reason.CUDA_FAILED, f"{what}: {code}", "name a process that uses CUDA")
    if code == "CUDA_ERROR_NOT_READY" and call == "cuCheckpointProcessLock":
        return DriverError(
            Reason.DEADLINE_EXCEEDED, f"{what}: its GPU work did not end in time", "quiesce the engine first"
        )
    return DriverError(Reason.CUDA_FAILED, f"{what}: {code}", _HINTS.get(code, ""))
