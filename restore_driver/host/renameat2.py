"""renameat2(2): exchange two paths in one step."""

from __future__ import annotations

import os
from pathlib import Path

from restore_driver.host.libc import last_error, libc

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def exchange(one: Path, other: Path) -> None:
    """Exchange two paths of one file system atomically.

    Raises:
        FileNotFoundError: one of them does not exist.
        OSError: any other error of renameat2(2), naming `other`.
    """
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        raise last_error(str(other))
