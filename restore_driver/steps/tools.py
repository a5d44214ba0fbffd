"""The tools that a phase needs, or the refusal that names the missing one."""

from __future__ import annotations

from restore_driver.criu.find import Criu
from restore_driver.cuda import CudaProcesses
from restore_driver.errors import DriverError, Reason
from restore_driver.toolset import Toolset


def require_criu(tools: Toolset) -> Criu:
    """Return CRIU.

    Raises:
        DriverError: CRIU_MISSING.
    """
    if tools.criu is None:
        raise DriverError(Reason.CRIU_MISSING, "there is no CRIU", "restore_driver/criu/install.sh installs it")
    return tools.criu


def require_cuda(tools: Toolset) -> CudaProcesses:
    """Return the adapter of CUDA processes.

    Raises:
        DriverError: CUDA_MISSING, with the reason why there is none.
    """
    if tools.cuda is None:
        raise DriverError(Reason.CUDA_MISSING, tools.cuda_missing)
    return tools.cuda
