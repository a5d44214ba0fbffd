"""Removing directories on a disk: under a hidden name by one rename, then away; and what a killed remover left.

A removal that dies at any line leaves its directory where it was, or hidden: nobody lists what is hidden.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from restore_driver.artifact import read_lock as hold
from restore_driver.errors import DriverError

GONE = ".gone-"


def put_away(path: Path, step: Callable[[str], None] = lambda _: None) -> None:
    """Removes a directory that nobody holds; `step` is told what comes next.

    Raises:
        DriverError: BUSY while somebody holds it; MANIFEST_INVALID when it is no directory.
        OSError: as the kernel says.
    """
    with hold.alone(path):
        hidden = path.with_name(f"{GONE}{path.name[:100]}.{uuid.uuid4().hex[:8]}")
        step("rename")
        path.rename(hidden)
        step("remove")
        shutil.rmtree(hidden)


def sweep_away(paths: Iterable[Path], before_unix_s: float | None, *, only_look: bool) -> list[Path]:
    """Removes directories that nobody holds and nobody wrote into since; returns what they were."""
    swept = []
    for path in sorted(paths):
        with suppress(DriverError, FileNotFoundError), hold.alone(path):
            if before_unix_s is not None and newest_write_unix_s(path) >= before_unix_s:
                continue
            if not only_look:
                shutil.rmtree(path)
            swept.append(path)
    return swept


def newest_write_unix_s(directory: Path) -> float:
    """When something in a directory, or itself, was last written."""
    newest = os.lstat(directory).st_mtime
    for where, directories, files in os.walk(directory):
        for name in (*directories, *files):
            with suppress(FileNotFoundError):
                newest = max(newest, os.lstat(Path(where, name)).st_mtime)
    return newest
