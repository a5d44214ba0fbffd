"""Open paths as a process in another root would, without ever leaving that root.

`/proc/PID/root/a/b` is not enough: an absolute symbolic link in there is followed in *our* root. openat2(2) with
RESOLVE_IN_ROOT follows links as the other process would.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import PurePosixPath

from restore_driver.host.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open a path within a root directory; the caller closes the descriptor.

    Raises:
        OSError: any error of openat2(2).
    """
    return openat2(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_parent(root_fd: int, path: str, *, make: bool = False) -> tuple[int, str]:
    """Open the directory that a path lies in, and return its descriptor and the path's last part.

    With `make`, create missing directories with mode 0755.

    Raises:
        OSError: a directory does not exist or cannot be created.
    """
    pure = PurePosixPath("/") / path
    if make:
        for directory in reversed(pure.parents[:-1]):
            upper_fd = open_in_root(root_fd, str(directory.parent), os.O_RDONLY | os.O_DIRECTORY)
            try:
                with suppress(FileExistsError):
                    os.mkdir(directory.name, 0o755, dir_fd=upper_fd)
            finally:
                os.close(upper_fd)
    return open_in_root(root_fd, str(pure.parent), os.O_RDONLY | os.O_DIRECTORY), pure.name
