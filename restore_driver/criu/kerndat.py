"""CRIU's look at the kernel, kept: it costs 25 ms at each start, and its answer changes with the kernel only.

CRIU keeps it in /run/criu.kdat, but writes it only where /run is a tmpfs, and in a container believes whatever it finds
there. So the driver has it made once, in a mount namespace of its own, and gives it to each CRIU in its working
directory, where one that `install.sh` patched looks instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restore_driver.criu.find import Criu
from restore_driver.host.mounts import MS_PRIVATE, MS_REC, mount
from restore_driver.host.namespaces import KINDS, unshare
from restore_driver.host.process import run

PATH = "/run/criu.kdat"
_NAME = os.path.basename(PATH)
_DEADLINE_S = 10.0


def make(criu: Criu, directory: Path) -> bytes | None:
    """The cache as this CRIU writes it for this kernel; None if it writes none, and all goes on as without."""
    target = directory / "criu.kdat"
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def own_run() -> None:
        unshare(KINDS["mnt"])
        mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
        mount("tmpfs", Path("/run"), "tmpfs")
        os.chdir("/run")  # a CRIU that install.sh patched keeps it where it is

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
def kept_in(work: Path, content: bytes | None) -> Iterator[None]:
    """In CRIU's working directory while the block runs, where a CRIU that `install.sh` patched looks for it. It is the
    driver's own: a container can't tell CRIU untruths of the kernel. Nothing stays, not even what CRIU began to write
    and did not keep, for the kernel may be another next time."""
    _forget(work)
    try:
        if content is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(work / _NAME, flags, 0o600), "wb") as file:
                file.write(content)
        yield
    finally:
        _forget(work)


def _forget(work: Path) -> None:
    for name in (_NAME, f"{_NAME}.tmp"):
        (work / name).unlink(missing_ok=True)
