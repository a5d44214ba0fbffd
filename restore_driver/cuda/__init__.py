"""CUDA state of processes: lock, checkpoint, restore, unlock; through one resident helper, else NVIDIA's program.

`ports.py` is the port, `states.py` the transition table, `backend_selection.py` selects the backend, `tree.py` moves
several processes as one. `client.py`, `wire.py` and `helper.py` are the resident helper, `cli.py` is the fallback,
`memory.py` proves that a parked process holds no GPU memory.
"""

from __future__ import annotations

from restore_driver.cuda.backend_selection import open_cuda
from restore_driver.cuda.cli import Cli
from restore_driver.cuda.client import HelperClient
from restore_driver.cuda.gpu_map import DeviceMap, device_map
from restore_driver.cuda.memory import MemoryProof
from restore_driver.cuda.ports import CudaProcesses, NotCuda
from restore_driver.cuda.readings import GpuMemory, MemoryReading
from restore_driver.cuda.smi import gpu_uuids
from restore_driver.cuda.states import CudaState
from restore_driver.cuda.tree import bring_back, cuda_pids, maps_cuda, tree_checkpoint, tree_lock, tree_restore

__all__ = [
    "Cli",
    "CudaProcesses",
    "CudaState",
    "DeviceMap",
    "GpuMemory",
    "HelperClient",
    "MemoryProof",
    "MemoryReading",
    "NotCuda",
    "bring_back",
    "cuda_pids",
    "device_map",
    "gpu_uuids",
    "maps_cuda",
    "open_cuda",
    "tree_checkpoint",
    "tree_lock",
    "tree_restore",
]
