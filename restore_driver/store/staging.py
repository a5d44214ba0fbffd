"""The hidden directory in which an artifact is staged, and its record of pieces that are there.

    .staging-<artifact>.<digest>/artifact/   becomes the artifact
                                 /pieces     a line for each piece that was checked and written: file, piece

A killed stage leaves it behind, its lock goes with it, and the next stage of the same snapshot takes it up. The record
is believed only so far that those pieces aren't fetched again: each file's digest is verified after its last piece.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restore_driver.artifact import read_lock as hold
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import sync

PREFIX = ".staging-"


class Staging:
    """One staging directory, locked while this object is used."""

    def __init__(self, path: Path, piece_bytes: int) -> None:
        self.path, self.artifact = path, path / "artifact"
        self._record = path / f"pieces-of-{piece_bytes}"  # another size is another cut: nothing of it can be used
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}

    @classmethod
    @contextmanager
    def open(cls, target: Path, digest: str, piece_bytes: int) -> Iterator[Staging]:
        """Makes or takes up the directory beside the artifact's place.

        Raises:
            DriverError: BUSY while another stage of this snapshot to this place is at work.
        """
        path = target.with_name(f"{PREFIX}{target.name}.{digest}")
        path.mkdir(mode=0o700, exist_ok=True)
        try:
            with hold.alone(path):
                staging = cls(path, piece_bytes)
                staging.artifact.mkdir(mode=0o700, exist_ok=True)
                try:
                    yield staging
                finally:
                    staging.close()
        except DriverError as error:
            if error.reason is Reason.BUSY and str(path) in error.detail:
                raise DriverError(
                    Reason.BUSY, f"another stage of this snapshot to {target} is at work", "wait for its end"
                ) from error
            raise

    def done(self) -> dict[int, set[int]]:
        """Pieces by number of file, as an earlier stage left them."""
        found: dict[int, set[int]] = defaultdict(set)
        if self._record.exists():
            for line in self._record.read_text("ascii", "replace").splitlines():
                file, _, piece = line.partition(" ")
                if piece == "none" and file.isdigit():
                    found.pop(int(file), None)
                elif file.isdigit() and piece.isdigit():
                    found[int(file)].add(int(piece))
        return found

    def note(self, file: int, piece: int | None) -> None:
        """A piece is there; None: nothing of the file is."""
        with self._lock, self._record.open("ab", buffering=0) as record:
            record.write(f"{file} {'none' if piece is None else piece}\n".encode())

    def write(self, path: str, offset: int, content: bytes) -> None:
        """Writes into a file of the artifact, which is made when it isn't there."""
        fd = self._open(path)
        view = memoryview(content)
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written

    def finish(self, path: str, size_bytes: int) -> None:
        """Makes a file exactly that long, and durable; not opened for writing if that isn't needed: a stage that was
        killed after sealing left files that can't be."""
        where = self.artifact / path
        if not where.exists() or where.stat().st_size != size_bytes:
            os.ftruncate(self._open(path), size_bytes)
        sync(where)

    def discard(self, path: str, file: int | None = None) -> None:
        """Forgets a file and, by its number, its pieces."""
        with self._lock:
            if (fd := self._files.pop(path, None)) is not None:
                os.close(fd)
        (self.artifact / path).unlink(missing_ok=True)
        if file is not None:
            self.note(file, None)

    def sync_directories(self) -> None:
        """fsync(2) of all directories of the artifact."""
        for where, _, _ in os.walk(self.artifact):
            sync(Path(where))

    def used_bytes(self) -> int:
        """Disk that its files take already."""
        return sum(
            os.lstat(Path(where, name)).st_blocks * 512 for where, _, names in os.walk(self.artifact) for name in names
        )

    def close(self) -> None:
        """Closes the files."""
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
