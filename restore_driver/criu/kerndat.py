"""CRIU's look at the kernel, kept: it costs 25 ms at each start, and its answer changes with the kernel only.

CRIU keeps it in /run/criu.kdat, but writes it only where /run is a tmpfs, which it rarely is in a container. So the
driver has it made once, in a mount namespace of its own, and lends it to a placeholder while CRIU restores there. A
placeholder without a /run, or with a cache of its own, is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from restore_driver.criu.find import Criu
from restore_driver.files.in_root import open_in_root
from restore_driver.host.mounts import MS_PRIVATE, MS_REC, mount
from restore_driver.host.namespaces import KINDS, unshare
from restore_driver.host.process import run

PATH = "/run/criu.kdat"
_DEADLINE_S = 10.0


def make(criu: Criu, directory: Path) -> bytes | None:
    """The cache as this CRIU writes it for this kernel; None if it writes none, and all goes on as without."""
    target = directory / "criu.kdat"
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def own_run() -> None:
        unshare(KINDS["mnt"])
        mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
        mount("tmpfs", Path("/run"), "tmpfs")

    try:
        script = f'"$@" check >/dev/null 2>&1; cat {PATH} >/proc/self/fd/{fd}'
        # CRIU must be reached without /run, which a tmpfs hides here: by its open directory.
        home = os.open(criu.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            argv = ["sh", "-c", script, "sh", *criu.argv_at(f"/proc/self/fd/{home}")]
            done = run(argv, deadline_s=_DEADLINE_S, enter=own_run, pass_fds=[fd, home])
        finally:
            os.close(home)
        content = target.read_bytes()
    finally:
        os.close(fd)
        target.unlink(missing_ok=True)
    return content if done.exit_code == 0 and content else None


@contextmanager
def lent(root: Path, content: bytes | None) -> Iterator[bool]:
    """Puts the cache into a placeholder's root while the block runs; yields whether it did."""
    if content is None or not _put(root, content):
        yield False
        return
    try:
        yield True
    finally:
        take_back(root)


def take_back(root: Path) -> None:
    """Removes a cache that was lent; idempotent, and for a placeholder that is gone nothing to do."""
    with suppress(OSError), _run_directory(root) as directory:
        os.unlink(os.path.basename(PATH), dir_fd=directory)


def _put(root: Path, content: bytes) -> bool:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError), _run_directory(root) as directory:
        fd = os.open(os.path.basename(PATH), flags, 0o600, dir_fd=directory)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)
        return True
    return False


@contextmanager
def _run_directory(root: Path) -> Iterator[int]:
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = open_in_root(root_fd, os.path.dirname(PATH), os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(root_fd)
    try:
        yield directory
    finally:
        os.close(directory)
