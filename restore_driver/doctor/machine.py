"""The machine under examination: the user's options, and slow readings that several checks share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from restore_driver.compat.fingerprint import Gpu, read_gpus
from restore_driver.criu.find import Criu, find_criu
from restore_driver.errors import DriverError
from restore_driver.host.process import run

PATIENCE_S = 5.0
"""Limit for one program to answer: CRIU's check takes 0.1 s, a first cuInit without persistence mode a few seconds."""

_NVIDIA_PCI = "0x10de"
_PCI = Path("/sys/bus/pci/devices")
DRIVER_VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class GpuModes:
    """The settings of one GPU, as nvidia-smi prints them."""

    index: str
    mig: str
    persistence: str


@dataclass(frozen=True)
class Machine:
    """The user's options, and readings that are made once, on first use."""

    state: Path
    artifacts: Path | None = None
    holder: Path | None = None
    gpu: bool = False
    """A GPU is needed: a machine without one is not fit."""
    patience_s: float = PATIENCE_S

    @property
    def is_root(self) -> bool:
        """True if the effective user is root, which the driver requires."""
        return os.geteuid() == 0

    @cached_property
    def criu(self) -> Criu | DriverError:
        """The CRIU that the driver would use, or the error why there is none."""
        try:
            return find_criu()
        except DriverError as error:
            return error

    @cached_property
    def gpus_and_driver(self) -> tuple[tuple[Gpu, ...], str | None]:
        """GPUs and driver version as nvidia-smi reports them; `(), None` if it does not answer."""
        try:
            return read_gpus(self.patience_s)
        except PermissionError:  # it may not be executed by this user
            return (), None

    @cached_property
    def gpu_modes(self) -> tuple[GpuModes, ...]:
        """The settings of each GPU; empty if nvidia-smi does not report them."""
        query = ["nvidia-smi", "--query-gpu=index,mig.mode.current,persistence_mode", "--format=csv,noheader"]
        try:
            done = run(query, deadline_s=self.patience_s)
        except (DriverError, PermissionError):
            return ()
        rows = [[cell.strip() for cell in line.split(",")] for line in done.output.splitlines()]
        if done.exit_code != 0 or any(len(row) != 3 for row in rows):
            return ()
        return tuple(GpuModes(*row) for row in rows)

    @cached_property
    def nvidia_trace(self) -> str:
        """Evidence of NVIDIA hardware or its driver, in a few words; empty if there is none."""
        if self.gpus_and_driver[0]:
            return "nvidia-smi shows a GPU"
        if DRIVER_VERSION.exists():
            return f"{DRIVER_VERSION} exists"
        if Path("/dev/nvidiactl").exists():
            return "/dev/nvidiactl exists"
        devices = [device for device in _PCI.glob("*") if _is_nvidia_gpu(device)]
        return f"PCI device {devices[0].name} is NVIDIA's" if devices else ""


def _is_nvidia_gpu(device: Path) -> bool:
    """Return True for NVIDIA's devices of PCI class 03 (display controllers), which includes GPUs without a display."""
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
    except OSError:
        return False
    return vendor == _NVIDIA_PCI and kind.startswith("0x03")
