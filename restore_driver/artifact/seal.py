"""The seal: digests are verified once, when an artifact is staged; a restore looks only whether it is as it was then.

Sealing verifies every digest, makes everything read-only, has the kernel watch the files where the file system can
(fs-verity: it then refuses to return bytes that changed), and records inode, size and both times of each. ctime can't
be set by anybody, so a file that was written since shows it. The record lies beside the artifact, in a directory that
only root may write; it names the manifest by its digest.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from restore_driver.artifact.digest import digest_files, list_files, open_regular
from restore_driver.artifact.manifest import NAME, Manifest, load
from restore_driver.errors import DriverError, Reason
from restore_driver.host.atomic import write_atomically
from restore_driver.host.trusted import open_beneath, require_trusted
from restore_driver.host.verity import enable_verity

SUFFIX = ".seal"
_CLOCK_REALTIME_COARSE = 5
"""The kernel's clock for times of files; Python has no name for it."""
_LONGEST_TICK_MS = 50
"""A file server's clock may be ahead for ever; it is not waited for."""
_MEND = "verify and seal it again (forethaw verify), or stage it anew"


class SealedFile(BaseModel):
    """What the file system said of a file when its digest was verified."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inode: int
    device: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class Seal(BaseModel):
    """The record beside an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, SealedFile]
    verity: bool
    """The kernel itself watches the files."""


def verify_and_seal(artifact: Path) -> Seal:
    """Verifies every digest and seals; may be repeated.

    Raises:
        DriverError: NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file.
    """
    verify(artifact)
    return seal_as_it_is(artifact)


def seal_as_it_is(artifact: Path) -> Seal:
    """Seals files whose digests were computed just now, by whoever wrote them.

    Raises:
        DriverError: NOT_TRUSTED, MANIFEST_INVALID.
    """
    manifest = load(artifact)
    names = [entry.path for entry in manifest.files] + [NAME]
    directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        verity = all([_lock_down(directory, name) for name in names])
        for where, _, _ in os.walk(artifact, topdown=False):
            os.chmod(where, 0o500)
        _let_the_clock_tick(directory, names)
        seal = Seal(files={name: _look(directory, name) for name in names}, verity=verity)
    finally:
        os.close(directory)
    record = seal_path(artifact)
    write_atomically(record, seal.model_dump_json().encode())
    return seal


def verify(artifact: Path) -> Manifest:
    """Reads every byte and compares: nothing missing, nothing changed, nothing more.

    Raises:
        DriverError: NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file.
    """
    require_trusted(artifact, owner=os.geteuid())
    _refuse_others(artifact)
    manifest = load(artifact)
    expected = {entry.path: (entry.size_bytes, entry.digest) for entry in manifest.files}
    present = set(list_files(artifact)) - {NAME}
    if present != set(expected):
        odd = sorted(present ^ set(expected))[0]
        what = "is missing" if odd in expected else "is not in the manifest"
        raise DriverError(Reason.DIGEST_MISMATCH, f"{artifact / odd} {what}", "stage it anew")
    directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name, found in digest_files(directory, expected).items():
            if found != expected[name]:
                raise DriverError(Reason.DIGEST_MISMATCH, f"{artifact / name} is not what was dumped", "stage it anew")
    finally:
        os.close(directory)
    return manifest


def check_seal(artifact: Path) -> Manifest:
    """Looks whether a sealed artifact is as it was; a stat a file, no content but the manifest's.

    Raises:
        DriverError: SEAL_BROKEN naming the file; NOT_TRUSTED; MANIFEST_INVALID.
    """
    require_trusted(artifact, owner=os.geteuid())
    record = seal_path(artifact)
    try:
        require_trusted(record, owner=os.geteuid())
        seal = Seal.model_validate_json(record.read_bytes())
    except (OSError, DriverError, ValidationError) as error:
        raise DriverError(Reason.SEAL_BROKEN, f"{artifact} has no good seal: {error}", _MEND) from error
    _refuse_others(artifact)
    if set(list_files(artifact)) != set(seal.files):
        odd = sorted(set(list_files(artifact)) ^ set(seal.files))[0]
        raise DriverError(Reason.SEAL_BROKEN, f"{artifact / odd} came or went since it was sealed", _MEND)
    directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name, was in seal.files.items():
            if _look(directory, name) != was:
                raise DriverError(Reason.SEAL_BROKEN, f"{artifact / name} changed since it was sealed", _MEND)
    finally:
        os.close(directory)
    return load(artifact)


def reverify(artifact: Path) -> Manifest:
    """Full verification, whatever the seal says.

    Raises:
        DriverError: as `verify`.
    """
    return verify(artifact)


def seal_path(artifact: Path) -> Path:
    """Where the record of an artifact lies."""
    return artifact.with_name(artifact.name + SUFFIX)


def _refuse_others(artifact: Path) -> None:
    """What another user may write within could change between this look and CRIU's."""
    for where, directories, names in os.walk(artifact):
        for path in (Path(where, name) for name in (*directories, *names)):
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                continue  # refused elsewhere, whoever owns it
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise DriverError(
                    Reason.NOT_TRUSTED, f"{path} may be written by others than root", f"chown root {path}; chmod go-w"
                )


def _let_the_clock_tick(directory: int, names: list[str]) -> None:
    """Times of files go by ticks of some milliseconds on older kernels: what is done to one in the tick in which it was
    sealed would not show."""
    newest_ns = max(_look(directory, name).ctime_ns for name in names)
    for _ in range(_LONGEST_TICK_MS):
        if time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) > newest_ns:
            return
        time.sleep(0.001)


def _look(directory: int, name: str) -> SealedFile:
    try:
        fd = open_beneath(directory, name, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        raise DriverError(Reason.SEAL_BROKEN, f"{name}: {error.strerror}", _MEND) from error
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    return SealedFile(
        inode=status.st_ino,
        device=status.st_dev,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def _lock_down(directory: int, name: str) -> bool:
    """Root's, read-only, and under the kernel's watch where it offers that; True if it does."""
    fd = open_regular(directory, name)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != 0o400:
            os.fchmod(fd, 0o400)
        return _enable_verity(fd)
    finally:
        os.close(fd)


def _enable_verity(fd: int) -> bool:
    """Return False where the file system or the kernel has no fs-verity."""
    try:
        enable_verity(fd)
    except OSError:
        return False
    return True
