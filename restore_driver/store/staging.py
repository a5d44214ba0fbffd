"""The hidden directory in which an artifact is staged, and its record of the chunks that are written.

    .staging-<artifact>.<digest>/artifact/        becomes the artifact
                                 /chunks-of-<N>   a line for each verified and written chunk of N bytes: file, chunk

A killed stage leaves it behind unlocked, and the next stage of the same snapshot resumes it. The record only saves
fetching those chunks again: each file's digest is verified after its last chunk.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restore_driver.artifact.read_lock import exclusive_lock
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import sync

PREFIX = ".staging-"


class Staging:
    """One staging directory, locked while this object is used."""

    def __init__(self, path: Path, chunk_bytes: int) -> None:
        self.path, self.artifact = path, path / "artifact"
        self._record = path / f"chunks-of-{chunk_bytes}"  # chunks of another size are useless
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}

    @classmethod
    @contextmanager
    def open(cls, target: Path, digest: str, chunk_bytes: int) -> Iterator[Staging]:
        """Create or resume the directory beside the artifact's place, locked while the block runs.

        Raises:
            DriverError: BUSY while another stage of this snapshot to this place is running.
        """
        path = target.with_name(f"{PREFIX}{target.name}.{digest}")
        path.mkdir(mode=0o700, exist_ok=True)
        try:
            with exclusive_lock(path):
                staging = cls(path, chunk_bytes)
                staging.artifact.mkdir(mode=0o700, exist_ok=True)
                try:
                    yield staging
                finally:
                    staging.close()
        except DriverError as error:
            if error.reason is Reason.BUSY and str(path) in error.detail:
                raise DriverError(
                    Reason.BUSY, f"another stage of this snapshot to {target} is running", "wait for its end"
                ) from error
            raise

    def done(self) -> dict[int, set[int]]:
        """Return the chunks that an earlier stage has written, by file number."""
        found: dict[int, set[int]] = defaultdict(set)
        if self._record.exists():
            for line in self._record.read_text("ascii", "replace").splitlines():
                file, _, chunk = line.partition(" ")
                if chunk == "none" and file.isdigit():
                    found.pop(int(file), None)
                elif file.isdigit() and chunk.isdigit():
                    found[int(file)].add(int(chunk))
        return found

    def note(self, file: int, chunk: int | None) -> None:
        """Record that a chunk is written; None records that no chunk of the file is."""
        with self._lock, self._record.open("ab", buffering=0) as record:
            record.write(f"{file} {'none' if chunk is None else chunk}\n".encode())

    def write(self, path: str, offset: int, content: bytes) -> None:
        """Write `content` at an offset of a file of the artifact, which is created if it is missing."""
        fd = self._open(path)
        view = memoryview(content)
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written

    def finish(self, path: str, size_bytes: int) -> None:
        """Give a file its exact length and sync it.

        It is not opened for writing unless needed: a stage that was killed after sealing left fs-verity files, which
        cannot be opened so.
        """
        where = self.artifact / path
        if not where.exists() or where.stat().st_size != size_bytes:
            os.ftruncate(self._open(path), size_bytes)
        sync(where)

    def discard(self, path: str, file: int | None = None) -> None:
        """Remove a file and, if its number is given, its chunks from the record."""
        with self._lock:
            if (fd := self._files.pop(path, None)) is not None:
                os.close(fd)
        (self.artifact / path).unlink(missing_ok=True)
        if file is not None:
            self.note(file, None)

    def sync_directories(self) -> None:
        """Sync all directories of the artifact (fsync(2))."""
        for where, _, _ in os.walk(self.artifact):
            sync(Path(where))

    def used_bytes(self) -> int:
        """Return the disk space that the artifact's files take, in bytes."""
        return sum(
            os.lstat(Path(where, name)).st_blocks * 512 for where, _, names in os.walk(self.artifact) for name in names
        )

    def close(self) -> None:
        """Close all files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _open(self, path: str) -> int:
        with self._lock:
            if path not in self._files:
                where = self.artifact / path
                where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._files[path] = os.open(where, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            return self._files[path]
