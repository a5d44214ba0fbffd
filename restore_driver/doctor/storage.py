"""Check directories: the driver's state directory, and the one of artifacts.

A directory that does not exist yet is checked by the parent in which it would be created; nothing is created here.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from restore_driver.doctor.findings import Answer, Verdict, absent, broken, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.doctor.space import LEAST_BYTES, nearest
from restore_driver.errors import DriverError
from restore_driver.host.disk import free_bytes
from restore_driver.host.trusted import require_trusted
from restore_driver.host.verity import enable_verity

NOT_CHECKED = "not checked: --artifacts was not given"


def state(machine: Machine) -> Answer:
    """Check that only root may write the directory of journals and sockets: a writer there could command root."""
    return _trusted(machine, "--state", machine.state)


def state_space(machine: Machine) -> Answer:
    """Check the free space of the state directory: logs are small, but a full disk fails a restore."""
    return _space(machine.state)


def artifacts(machine: Machine) -> Answer:
    """Check that only root may write the directory of artifacts, and its free space."""
    if machine.artifacts is None:
        return absent(NOT_CHECKED)
    trusted = _trusted(machine, "--artifacts", machine.artifacts)
    return _space(machine.artifacts) if trusted.verdict is Verdict.OK else trusted


def verity(machine: Machine) -> Answer:
    """Try fs-verity on an unnamed file, which the kernel removes when it is closed."""
    if machine.artifacts is None:
        return absent(NOT_CHECKED)
    directory = nearest(machine.artifacts)
    try:
        refused = _try_verity(directory)
    except OSError as error:
        return warning(f"not checked: no file can be created in {directory}: {error.strerror}", "see `artifacts` above")
    if refused:
        return warning(
            f"{directory}'s file system has no fs-verity here ({os.strerror(refused)}): a seal checks inodes, sizes "
            "and times, and does not detect bytes that the disk changed",
            "nothing, or: tune2fs -O verity DEVICE (ext4 and f2fs have it, btrfs always), CONFIG_FS_VERITY=y",
        )
    return ok(f"{directory}'s file system has fs-verity")


def _trusted(machine: Machine, option: str, path: Path) -> Answer:
    here = nearest(path)
    exists = here == path.absolute()
    try:
        # In a directory with the sticky bit, such as /tmp, only the owner may replace what it created.
        sticky = not exists and here.lstat().st_mode & stat.S_ISVTX
        require_trusted(here.parent if sticky else here, owner=os.geteuid())
    except DriverError as error:
        return broken(f"{option} {path}: {error.detail}", error.hint)
    if not os.access(here, os.W_OK) and machine.is_root:
        return broken(f"{option} {path}: {here} cannot be written", "name a directory on a writable file system")
    return ok(f"{path}: only root may write there" if exists else f"{path}: does not exist yet; parent {here} is fine")


def _space(path: Path) -> Answer:
    here = nearest(path)
    free = free_bytes(here)
    if free < LEAST_BYTES:
        return warning(
            f"{here} has {free:,} bytes free, less than {LEAST_BYTES:,}", "free some, or name another directory"
        )
    return ok(f"{here} has {free:,} bytes free")


def _try_verity(directory: Path) -> int:
    """Return 0, or the error number of enabling fs-verity on a file without a name.

    Raises:
        OSError: no file can be created there.
    """
    written = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.write(written, b"forethaw")
        read = os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(written)  # a file that is open for writing is refused
    try:
        enable_verity(read)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(read)
    return 0
