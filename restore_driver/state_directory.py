"""The driver's own directory: journals, CRIU's logs, records of parked replicas, locks of placeholders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from restore_driver.errors import DriverError, Reason
from restore_driver.host.flock import try_lock
from restore_driver.host.trusted import require_trusted

STATE = Path("/run/forethaw")
"""On tmpfs, as none of it outlives the machine's processes."""


@dataclass(frozen=True)
class StateDirectory:
    """Paths below the state directory, writable by root alone."""

    root: Path

    @property
    def attempts(self) -> Path:
        """Directory of journals: one file an attempt."""
        return self.root / "attempts"

    @property
    def parked(self) -> Path:
        """Directory of records: one for each parked replica."""
        return self.root / "parked"

    @property
    def huge_pages(self) -> Path:
        """Directory of the saved previous setting of transparent huge pages."""
        return self.root / "huge-pages"

    @contextmanager
    def lock_placeholder(self, placeholder: str) -> Iterator[None]:
        """Hold the lock of a placeholder (`PID-TICKS`) while the block runs; the kernel releases it if the driver dies.

        Raises:
            DriverError: BUSY.
        """
        fd = os.open(self.placeholders / placeholder, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if not try_lock(fd):
                raise DriverError(
                    Reason.BUSY,
                    f"another restore into placeholder process {placeholder} is running",
                    "wait for its end",
                )
            yield
        finally:
            os.close(fd)

    @property
    def placeholders(self) -> Path:
        """Directory of the locks of placeholders that are being restored into."""
        return self.root / "placeholders"

    def work(self, key: str) -> Path:
        """Return the directory of CRIU's log and statistics of one attempt."""
        return self.root / "work" / key

    def directories(self) -> tuple[Path, ...]:
        """Return all directories, parents first."""
        return (self.root, self.attempts, self.parked, self.placeholders, self.huge_pages, self.root / "work")

    def make(self) -> None:
        """Create the directories that are missing.

        Raises:
            DriverError: NOT_TRUSTED when another user than root may write there.
        """
        for directory in self.directories():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_trusted(directory, owner=os.geteuid())
