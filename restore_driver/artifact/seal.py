"""Seal an artifact when it is staged, so that a restore can check it without reading it again.

Sealing verifies every digest, makes everything read-only, enables fs-verity where the file system has it (the kernel
then refuses to return bytes that changed), and records inode, size and both times of each file. No process can set
ctime, so a file that was written since differs from its record. The record lies beside the artifact, in a directory
that only root may write.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from restore_driver.artifact.digest import digest_files, list_files, open_regular
from restore_driver.artifact.manifest import MANIFEST_NAME, Manifest, load_manifest
from restore_driver.errors import DriverError, Reason
from restore_driver.host.atomic import write_atomically
from restore_driver.host.trusted import open_beneath, require_trusted
from restore_driver.host.verity import enable_verity

SUFFIX = ".seal"
_CLOCK_REALTIME_COARSE = 5
"""The kernel's clock for times of files; Python has no name for it."""
_LONGEST_TICK_MS = 50
"""Upper bound of the wait for the next tick: a file server's clock may stay ahead."""
_STAGE_AGAIN = "stage it again"
_HINT = f"verify and seal it again (forethaw verify), or {_STAGE_AGAIN}"


class SealedFile(BaseModel):
    """Metadata of a file when its digest was verified."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inode: int
    device: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class Seal(BaseModel):
    """The record beside an artifact: metadata of each file by its path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, SealedFile]
    verity: bool
    """fs-verity is enabled for every file."""


def verify_and_seal(artifact: Path) -> Seal:
    """Verify every digest of an artifact and seal it; may be repeated.

    Raises:
        DriverError: NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file.
    """
    verify(artifact)
    return seal_as_it_is(artifact)


def seal_as_it_is(artifact: Path) -> Seal:
    """Seal files whose digests the caller has just computed or verified.

    Raises:
        DriverError: NOT_TRUSTED, MANIFEST_INVALID.
    """
    manifest = load_manifest(artifact)
    names = [entry.path for entry in manifest.files] + [MANIFEST_NAME]
    directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        watched = [_lock_down(directory, name) for name in names]  # every file, also after one without fs-verity
        for where, _, _ in os.walk(artifact, topdown=False):
            Path(where).chmod(0o500)
        _await_next_tick(directory, names)
        seal = Seal(files={name: _sealed_file(directory, name) for name in names}, verity=all(watched))
    finally:
        os.close(directory)
    record = seal_path(artifact)
    write_atomically(record, seal.model_dump_json().encode())
    return seal


def verify(artifact: Path) -> Manifest:
    """Compare every file of an artifact with its manifest by digest; refuse missing, changed and additional files.

    Raises:
        DriverError: NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file.
    """
    require_trusted(artifact, owner=os.geteuid())
    _require_only_root_writes(artifact)
    manifest = load_manifest(artifact)
    expected = {entry.path: (entry.size_bytes, entry.digest) for entry in manifest.files}
    present = set(list_files(artifact)) - {MANIFEST_NAME}
    if present != set(expected):
        odd = min(present ^ set(expected))
        what = "is missing" if odd in expected else "is not in the manifest"
        raise DriverError(Reason.DIGEST_MISMATCH, f"{artifact / odd} {what}", _STAGE_AGAIN)
    directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name, found in digest_files(directory, expected).items():
            if found != expected[name]:
                raise DriverError(Reason.DIGEST_MISMATCH, f"{artifact / name} is not what was dumped", _STAGE_AGAIN)
    finally:
        os.close(directory)
    return manifest


def check_seal(artifact: Path) -> Manifest:
    """Compare the metadata of a sealed artifact with its record; one stat a file, only the manifest is read.

    Raises:
        DriverError: SEAL_BROKEN naming the file; NOT_TRUSTED; MANIFEST_INVALID.
    """
    require_trusted(artifact, owner=os.geteuid())
    record = seal_path(artifact)
    try:
        require_trusted(record, owner=os.geteuid())
        seal = Seal.model_validate_json(record.read_bytes())
    except (OSError, DriverError, ValidationError) as error:
        raise DriverError(Reason.SEAL_BROKEN, f"{artifact} has no valid seal: {error}", _HINT) from error
    _require_only_root_writes(artifact)
    if different := set(list_files(artifact)) ^ set(seal.files):
        odd = artifact / min(different)
        raise DriverError(Reason.SEAL_BROKEN, f"{odd} was added or removed since the artifact was sealed", _HINT)
    directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name, was in seal.files.items():
            if _sealed_file(directory, name) != was:
                raise DriverError(Reason.SEAL_BROKEN, f"{artifact / name} changed since it was sealed", _HINT)
    finally:
        os.close(directory)
    return load_manifest(artifact)


def seal_path(artifact: Path) -> Path:
    """Return the path of an artifact's seal record."""
    return artifact.with_name(artifact.name + SUFFIX)


def _require_only_root_writes(artifact: Path) -> None:
    """Refuse files that another user may write: they could change between this check and CRIU's read."""
    for where, directories, names in os.walk(artifact):
        for path in (Path(where, name) for name in (*directories, *names)):
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                continue  # every caller refuses links
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise DriverError(
                    Reason.NOT_TRUSTED, f"{path} may be written by others than root", f"chown root {path}; chmod go-w"
                )


def _await_next_tick(directory: int, names: list[str]) -> None:
    """Wait until the clock of file times has passed all files' ctime.

    On older kernels it advances in ticks of some milliseconds: a write within the tick of the seal would not show.
    """
    newest_ns = max(_sealed_file(directory, name).ctime_ns for name in names)
    for _ in range(_LONGEST_TICK_MS):
        if time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) > newest_ns:
            return
        time.sleep(0.001)


def _sealed_file(directory: int, name: str) -> SealedFile:
    try:
        fd = open_beneath(directory, name, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        raise DriverError(Reason.SEAL_BROKEN, f"{name}: {error.strerror}", _HINT) from error
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
    """Make a file read-only and enable fs-verity; return True if fs-verity is enabled."""
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
