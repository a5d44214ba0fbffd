"""Who answers for CUDA on this machine: the resident helper, else the cuda-checkpoint program, else nobody."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from restore_driver.cuda.cli import Cli
from restore_driver.cuda.client import START_S, HelperClient
from restore_driver.cuda.ports import CudaProcesses
from restore_driver.errors import DriverError

Way = Literal["helper", "cli"]


def open_cuda(
    prefer: Way = "helper",
    *,
    library_path: Path | None = None,
    program: str = "cuda-checkpoint",
    deadline_s: float = START_S,
) -> tuple[CudaProcesses | None, str]:
    """The adapter, and why it is none or not the preferred one; the sentence is empty when all is as preferred."""
    reasons: list[str] = []
    for way in (prefer, "cli" if prefer == "helper" else "helper"):
        found = _open_helper(library_path, deadline_s) if way == "helper" else _open_cli(program)
        if not isinstance(found, str):
            return found, "; ".join(reasons)
        reasons.append(found)
    return None, "; ".join(reasons)


def _open_helper(library_path: Path | None, deadline_s: float) -> HelperClient | str:
    client = HelperClient(library_path)
    try:
        client.start(deadline_s)
    except DriverError as error:
        client.close()
        return str(error)
    return client


def _open_cli(program: str) -> Cli | str:
    found = shutil.which(program)
    return Cli(found) if found else f"CudaMissing: {program} does not exist"
