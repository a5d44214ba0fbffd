"""Cache CRIU's check of kernel features, which costs 25 ms at each start and changes with the kernel only.

CRIU keeps it in /run/criu.kdat, but writes it only where /run is a tmpfs, and in a container trusts any file of that
name. So the driver makes it once, in a mount namespace of its own, and gives it to each CRIU in its working directory,
where a CRIU that `install.sh` patched reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from restore_driver.criu.find import Criu
from restore_driver.host.mounts import MS_PRIVATE, MS_REC, mount
from restore_driver.host.namespaces import KINDS, unshare
from restore_driver.host.process import run

PATH = "/run/criu.kdat"
_NAME = PurePath(PATH).name
_DEADLINE_S = 10.0


def make(criu: Criu, directory: Path) -> bytes | None:
    """Return the content of the cache that this CRIU writes for this kernel; None if it writes none.

    `directory` receives a temporary file. Without a cache CRIU checks the kernel itself.
    """
    target = directory / "criu.kdat"
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def own_run() -> None:
        unshare(KINDS["mnt"])
        mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
        mount("tmpfs", Path("/run"), "tmpfs")
        os.chdir("/run")  # a CRIU that install.sh patched writes it to its working directory

    try:
        script = f'"$@" check >/dev/null 2>&1; cat {PATH} >/proc/self/fd/{fd}'
        # CRIU may lie below /run, which a tmpfs hides here: it is run by its open directory.
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
    """Keep the cache in CRIU's working directory while the block runs, where a patched CRIU reads it.

    The directory is the driver's own: the container cannot poison CRIU's kernel-feature cache. Everything is removed
    afterwards, also a file that CRIU has begun to write, since the next kernel may be another.
    """
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
