"""What every attempt needs and what is costly to get: found once, kept by the resident agent.

An interpreter, its imports, `cuInit` and a look for the GPUs each take longer than the parts of a restore; none of them
may lie between the trigger and the first answer.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from restore_driver.compat.fingerprint import Fingerprint, Gpu, here
from restore_driver.criu import kerndat
from restore_driver.criu.find import Criu, find_criu
from restore_driver.cuda import CudaProcesses, open_cuda
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted

STATE = Path("/run/forethaw")
"""Journals, CRIU's logs and records of parked replicas: on tmpfs, as none of it outlives the machine's processes."""


@dataclass(frozen=True)
class State:
    """Directories of the driver's own, only root's."""

    root: Path

    @property
    def attempts(self) -> Path:
        """Journals: one file an attempt."""
        return self.root / "attempts"

    @property
    def parked(self) -> Path:
        """One record for each parked replica."""
        return self.root / "parked"

    @property
    def huge_pages(self) -> Path:
        """What the system-wide setting was before a restore changed it."""
        return self.root / "huge-pages"

    @contextmanager
    def alone_in(self, placeholder: str) -> Iterator[None]:
        """One attempt at a time in a placeholder; the kernel frees the lock when a driver dies.

        Raises:
            DriverError: BUSY.
        """
        fd = os.open(self.placeholders / placeholder, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise DriverError(
                Reason.BUSY, f"another restore into placeholder process {placeholder} is at work", "wait for its end"
            ) from None
        try:
            yield
        finally:
            os.close(fd)

    @property
    def placeholders(self) -> Path:
        """Locks of placeholders that are being restored into."""
        return self.root / "placeholders"

    def work(self, key: str) -> Path:
        """CRIU's log and statistics of one attempt."""
        return self.root / "work" / key

    def directories(self) -> tuple[Path, ...]:
        """All of them, the upper ones first."""
        return (self.root, self.attempts, self.parked, self.placeholders, self.huge_pages, self.root / "work")

    def make(self) -> None:
        """Makes what is missing.

        Raises:
            DriverError: NOT_TRUSTED when somebody else than root may write there.
        """
        for directory in self.directories():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_trusted(directory, owner=os.geteuid())


@dataclass(frozen=True)
class Tools:
    """The resident part of the driver."""

    state: State
    criu: Criu | None
    cuda: CudaProcesses | None
    cuda_missing: str
    """Why there is no `cuda`, in one sentence."""
    gpus: tuple[Gpu, ...] = field(default=())
    machine: Fingerprint = field(default_factory=here)
    kerndat: bytes | None = None
    """CRIU's look at the kernel (`criu/kerndat.py`)."""


def open_tools(state: Path = STATE, *, resident: bool = False) -> Tools:
    """Looks for CRIU and the GPUs, starts the CUDA helper where there are any.

    Who is `resident` also has CRIU look at the kernel once: that costs three times what it saves a restore.

    Raises:
        DriverError: CRIU_MISSING; NOT_TRUSTED for the state directory.
    """
    directories = State(state)
    directories.make()
    machine = here()
    cuda, why_not = open_cuda() if machine.gpus else (None, "this machine shows no NVIDIA GPU")
    criu = find_criu()
    cache = kerndat.make(criu, state) if criu is not None and resident else None
    return Tools(directories, criu, cuda, why_not, machine.gpus, machine, cache)
