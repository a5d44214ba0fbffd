"""Start the holder as a process: its device, its single place on a socket, its models, its end by SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.host.unix_sockets import is_served
from restore_driver.logs import LogFormat, open_log
from restore_driver.weights.device import CudaDevice, Device, HostDevice
from restore_driver.weights.holder import Holder


def serve(  # noqa: PLR0913, PLR0917 - the options of the holder's command
    device: str,
    path: Path,
    budget_bytes: int,
    state: Path | None,
    huge_pages: bool,  # noqa: FBT001 - the same
    log_format: LogFormat,
) -> None:
    """Read the models of a dead holder again, print `ready`, and serve until SIGTERM.

    Args:
        device: ordinal of the GPU, or `host:BYTES`.
        path: socket.
        budget_bytes: page-locked host memory for models.
        state: file that lists the models, if any.
        huge_pages: back the models with huge pages.
        log_format: of the lines on standard error.

    Raises:
        DriverError: BUSY when a holder listens there; NOT_TRUSTED; REQUEST_INVALID or CUDA_MISSING for the device.
    """
    require_trusted(path.parent, owner=os.geteuid())
    refuse_second(path)
    log = open_log("weights-holder", log_format)
    holder = Holder(open_device(device), path, budget_bytes, state=state, huge_pages=huge_pages, log=log)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # reading models may take minutes
    for failure in holder.reload():
        log.warning("model_not_reloaded", reason=Reason.WEIGHTS_FAILED.value, detail=failure)
    signal.signal(signal.SIGTERM, lambda *_: holder.stop())
    holder.serve(lambda: print("ready", flush=True))  # noqa: T201 - a parent reads this line


def open_device(name: str) -> Device:
    """Return the GPU of an ordinal, or memfds for `host:BYTES`.

    Raises:
        DriverError: REQUEST_INVALID for a name that is neither; CUDA_MISSING.
    """
    kind, _, size = name.partition(":")
    if kind == "host" and size.isdecimal():
        return HostDevice(int(size))
    if not name.isdecimal():
        raise DriverError(Reason.REQUEST_INVALID, f"--device {name!r} is no GPU", "give its ordinal, or host:BYTES")
    return CudaDevice(int(name))


def refuse_second(path: Path) -> None:
    """Refuse a socket at which a holder listens; the socket of a dead one is replaced.

    Raises:
        DriverError: BUSY.
    """
    if is_served(path):
        raise DriverError(Reason.BUSY, f"a holder serves {path} already", "end it, or give another --socket")
