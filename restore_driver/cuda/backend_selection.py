"""Select the CUDA checkpoint backend: the resident helper, else the cuda-checkpoint program, else none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from restore_driver.cuda.cli import Cli
from restore_driver.cuda.client import START_S, HelperClient
from restore_driver.cuda.ports import CudaProcesses
from restore_driver.errors import DriverError
from restore_driver.logs import LogFormat

Backend = Literal["helper", "cli"]


def open_cuda(
    prefer: Backend = "helper",
    *,
    library_path: Path | None = None,
    program: str = "cuda-checkpoint",
    deadline_s: float = START_S,
    log_format: LogFormat = LogFormat.OFF,
) -> tuple[CudaProcesses | None, str]:
    """Return the backend, or None, and why it is not the preferred one (empty when it is).

    Args:
        prefer: backend that is tried first.
        library_path: directory that the helper searches for libcuda first.
        program: name or path of cuda-checkpoint.
        deadline_s: for the helper's start.
        log_format: of the helper's log on standard error.
    """
    reasons: list[str] = []
    for backend in (prefer, "cli" if prefer == "helper" else "helper"):
        found = _open_helper(library_path, deadline_s, log_format) if backend == "helper" else _open_cli(program)
        if not isinstance(found, str):
            return found, "; ".join(reasons)
        reasons.append(found)
    return None, "; ".join(reasons)


def _open_helper(library_path: Path | None, deadline_s: float, log_format: LogFormat) -> HelperClient | str:
    client = HelperClient(library_path, log_format)
    try:
        client.start(deadline_s)
    except DriverError as error:
        client.close()
        return str(error)
    return client


def _open_cli(program: str) -> Cli | str:
    found = shutil.which(program)
    return Cli(found) if found else f"CudaMissing: {program} does not exist"
