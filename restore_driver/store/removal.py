"""Remove directories: rename to a hidden name, then delete; and sweep what killed removals left.

A removal that is killed at any line leaves its directory in place or hidden, and hidden directories are not listed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from restore_driver.artifact.read_lock import exclusive_lock
from restore_driver.errors import DriverError

GONE = ".gone-"


def put_away(path: Path, step: Callable[[str], None] = lambda _: None) -> None:
    """Remove a directory; `step` is called with the name of each step before it begins.

    Raises:
        DriverError: BUSY while it is locked; MANIFEST_INVALID if it is not a directory.
        OSError: it cannot be renamed or deleted.
    """
    with exclusive_lock(path):
        hidden = path.with_name(f"{GONE}{path.name[:100]}.{uuid.uuid4().hex[:8]}")
        step("rename")
        path.rename(hidden)
        step("remove")
        shutil.rmtree(hidden)


def sweep_away(paths: Iterable[Path], before_unix_s: float | None, *, dry_run: bool) -> list[Path]:
    """Remove unlocked directories (None: of any age) last written before that time; return their paths.

    With `dry_run` nothing is removed.
    """
    swept = []
    for path in sorted(paths):
        with suppress(DriverError, FileNotFoundError), exclusive_lock(path):
            if before_unix_s is not None and newest_write_unix_s(path) >= before_unix_s:
                continue
            if not dry_run:
                shutil.rmtree(path)
            swept.append(path)
    return swept


def newest_write_unix_s(directory: Path) -> float:
    """Return the newest modification time of a directory and everything below it."""
    newest = os.lstat(directory).st_mtime
    for where, directories, files in os.walk(directory):
        for name in (*directories, *files):
            with suppress(FileNotFoundError):
                newest = max(newest, os.lstat(Path(where, name)).st_mtime)
    return newest
