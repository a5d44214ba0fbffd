"""The resources that every attempt uses and that are slow to get: CRIU, CUDA, the machine's fingerprint.

Starting an interpreter, its imports, `cuInit` and listing GPUs each take longer than the phases of a restore; none of
them may happen between the trigger and the first answer, so the resident agent keeps one `Toolset`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from restore_driver.compat.fingerprint import Fingerprint, Gpu, here
from restore_driver.criu import kerndat
from restore_driver.criu.find import Criu, find_criu
from restore_driver.cuda import CudaProcesses, open_cuda
from restore_driver.logs import LogFormat
from restore_driver.state_directory import STATE, StateDirectory


@dataclass(frozen=True)
class Toolset:
    """CRIU, CUDA and the machine's description, found once."""

    state: StateDirectory
    criu: Criu | None
    cuda: CudaProcesses | None
    cuda_missing: str
    """Reason in one sentence if `cuda` is None."""
    gpus: tuple[Gpu, ...] = field(default=())
    machine: Fingerprint = field(default_factory=here)
    kerndat: bytes | None = None
    """CRIU's cache of kernel features (`criu/kerndat.py`)."""


def open_toolset(state: Path = STATE, *, resident: bool = False, log_format: LogFormat = LogFormat.OFF) -> Toolset:
    """Find CRIU and the GPUs, and start the CUDA helper where there are any.

    A `resident` driver also runs CRIU's kernel check once: that costs three times what it saves a restore.
    `log_format` is that of the CUDA helper's log; one-shot commands leave it off.

    Raises:
        DriverError: CRIU_MISSING; NOT_TRUSTED for the state directory.
    """
    directories = StateDirectory(state)
    directories.make()
    machine = here()
    cuda, why_not = open_cuda(log_format=log_format) if machine.gpus else (None, "this machine shows no NVIDIA GPU")
    criu = find_criu()
    cache = kerndat.make(criu, state) if criu is not None and resident else None
    return Toolset(directories, criu, cuda, why_not, machine.gpus, machine, cache)
