"""A store in a directory, such as a mounted volume.

An upload lies under a hidden name beside its place, locked by its process, and is moved there by one rename
(`artifact/publish.py`); a removal renames to a hidden name first. So each snapshot is whole or not listed after a crash
at any line. Its directories have mode 0700: an image holds a process's memory, keys included.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from restore_driver.artifact.manifest import MANIFEST_NAME
from restore_driver.artifact.publish import swap_in
from restore_driver.artifact.read_lock import exclusive_lock, is_locked, shared_lock
from restore_driver.errors import DriverError, Reason
from restore_driver.host.atomic import atomic_file
from restore_driver.host.disk import is_full, sync, write_all
from restore_driver.host.trusted import open_beneath, refuse_escaping
from restore_driver.store.backend import StoredObject, Write, missing
from restore_driver.store.removal import GONE, put_away, sweep_away

PUSHING = ".pushing-"
_HALF = re.compile(r"\.half-[0-9a-f]{32}")
_CHUNK_BYTES = 1 << 20


class LocalBackend:
    """A `Backend` in an existing directory; a missing one is refused, since it may be a volume that is not mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)

    def walk(self, prefix: str = "") -> Iterator[StoredObject]:
        """See `Backend`."""
        self._require_root()
        for where, directories, files in os.walk(self._path(prefix), onerror=_unless_gone):
            relative = Path(where).relative_to(self.root)
            if len(relative.parts) < 2:
                directories[:] = [name for name in directories if not name.startswith((PUSHING, GONE))]
            for file in files:
                with suppress(FileNotFoundError):  # a concurrent removal
                    status = os.lstat(Path(where, file))
                    yield StoredObject((relative / file).as_posix(), status.st_size, status.st_mtime)

    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `Backend`."""
        self._require_root()
        with self._translated(name):
            root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = open_beneath(root, name)
            finally:
                os.close(root)
            try:
                at, end = start, os.fstat(fd).st_size if end is None else end
                while at < end and (chunk := os.pread(fd, min(_CHUNK_BYTES, end - at), at)):
                    yield chunk
                    at += len(chunk)
            finally:
                os.close(fd)

    @contextmanager
    def write(self, name: str, size_bytes: int) -> Iterator[Write]:
        """See `Backend`."""
        self._require_root()
        with self._translated(name):
            target = self._path(name)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            half = target.with_name(f".half-{uuid.uuid4().hex}")
            with atomic_file(target, temporary=half) as fd:
                yield lambda content: write_all(fd, content)

    def remove(self, name: str) -> None:
        """See `Backend`."""
        with self._translated(name):
            self._path(name).unlink(missing_ok=True)

    @contextmanager
    def uploading(self, place: str) -> Iterator[str]:
        """See `Backend`."""
        self._require_root()
        hidden = self._hidden(place)
        with self._translated(place):
            hidden.parent.mkdir(mode=0o700, exist_ok=True)
            hidden.mkdir(mode=0o700, exist_ok=True)
        try:
            with exclusive_lock(hidden):
                yield hidden.relative_to(self.root).as_posix()
        except DriverError as error:
            if error.reason is Reason.BUSY and str(hidden) in error.detail:
                raise DriverError(Reason.BUSY, f"another push of {place} is running", "wait for its end") from error
            raise

    def publish(self, place: str, manifest: bytes) -> None:
        """See `Backend`."""
        hidden = self._hidden(place)
        with self.write((hidden / MANIFEST_NAME).relative_to(self.root).as_posix(), len(manifest)) as write:
            write(manifest)
        with self._translated(place):
            for where, _, files in os.walk(hidden):
                for file in files:
                    if _HALF.fullmatch(file):  # of a push that was killed
                        Path(where, file).unlink()
                sync(Path(where))
            swap_in(hidden, self._path(place))

    @contextmanager
    def reading(self, place: str) -> Iterator[None]:
        """See `Backend`."""
        with shared_lock(self._path(place)):
            yield

    def is_locked(self, place: str) -> bool:
        """See `Backend`."""
        return is_locked(self._path(place))

    def retire(self, place: str) -> None:
        """See `Backend`."""
        path = self._path(place)
        with self._translated(place):
            put_away(path)
            with suppress(OSError):
                path.parent.rmdir()  # the last of its name

    def sweep(self, before_unix_s: float, *, dry_run: bool) -> tuple[str, ...]:
        """See `Backend`."""
        self._require_root()
        swept: list[Path] = []
        for parent in [path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink()]:
            swept += sweep_away(parent.glob(f"{PUSHING}*"), before_unix_s, dry_run=dry_run)
            swept += sweep_away(parent.glob(f"{GONE}*"), None, dry_run=dry_run)
        return tuple(path.relative_to(self.root).as_posix() for path in swept)

    def _path(self, name: str) -> Path:
        if name:
            refuse_escaping(name)
        return self.root / name

    def _hidden(self, place: str) -> Path:
        return self._path(place).with_name(PUSHING + Path(place).name)

    def _require_root(self) -> None:
        if not self.root.is_dir():
            raise DriverError(
                Reason.STORE_UNREACHABLE, f"{self.root} is not a directory", "mount the volume, or make the directory"
            )

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise missing(f"{self.root}/{name}") from error
        except OSError as error:
            if is_full(error):
                raise DriverError(Reason.DISK_FULL, f"{self.root} is full", "free some space") from error
            raise DriverError(Reason.STORE_UNREACHABLE, f"{self.root}/{name}: {error.strerror}") from error


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise DriverError(Reason.STORE_UNREACHABLE, f"{error.filename}: {error.strerror}") from error
