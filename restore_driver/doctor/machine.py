"""The machine under examination: what was asked of it, and the answers that several checks share and that cost time."""

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
"""For one program to answer: CRIU's check takes a tenth of a second, a first cuInit without persistence mode a few."""

_NVIDIA_PCI = "0x10de"
_PCI = Path("/sys/bus/pci/devices")
DRIVER_VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class GpuModes:
    """How one GPU is set, in nvidia-smi's words."""

    index: str
    mig: str
    persistence: str


@dataclass(frozen=True)
class Machine:
    """What the user asked; the shared answers are got by whichever check wants them first."""

    state: Path
    artifacts: Path | None = None
    holder: Path | None = None
    gpu: bool = False
    """A GPU is needed: a machine without one is not fit."""
    patience_s: float = PATIENCE_S

    @property
    def is_root(self) -> bool:
        """What the driver itself asks for before it touches anything."""
        return os.geteuid() == 0

    @cached_property
    def criu(self) -> Criu | DriverError:
        """The CRIU that the driver would take, or why there is none."""
        try:
            return find_criu()
        except DriverError as error:
            return error

    @cached_property
    def gpus_and_driver(self) -> tuple[tuple[Gpu, ...], str | None]:
        """As nvidia-smi tells them: no GPU, no driver where it does not answer."""
        try:
            return read_gpus(self.patience_s)
        except PermissionError:  # somewhere on PATH that is closed to us; what can't be run is not there for us
            return (), None

    @cached_property
    def gpu_modes(self) -> tuple[GpuModes, ...]:
        """Of each GPU; none where nvidia-smi does not tell."""
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
        """What shows that NVIDIA hardware or its driver is here; empty where nothing does."""
        if self.gpus_and_driver[0]:
            return "nvidia-smi shows a GPU"
        if DRIVER_VERSION.exists():
            return f"{DRIVER_VERSION} exists"
        if Path("/dev/nvidiactl").exists():
            return "/dev/nvidiactl exists"
        cards = [device for device in _PCI.glob("*") if _is_nvidia_card(device)]
        return f"PCI device {cards[0].name} is NVIDIA's" if cards else ""


def _is_nvidia_card(device: Path) -> bool:
    """Class 03: a display controller, which a GPU without a display is, too; NVIDIA makes other devices as well."""
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
    except OSError:
        return False
    return vendor == _NVIDIA_PCI and kind.startswith("0x03")
