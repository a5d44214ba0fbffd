"""From a node into a store: read, verified, packed and sent in one pass; the manifest last.

Files go side by side, and the pieces of each are packed side by side, too. After each large file the index is written
anew, so that a push that died is taken up again: files that the index names and the store has in that size are not sent
a second time. (Their digests were verified by the push that sent them; a stage verifies all.)
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from restore_driver.artifact import manifest as manifests
from restore_driver.artifact import read_lock as hold
from restore_driver.artifact.digest import open_regular
from restore_driver.artifact.manifest import FileEntry
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.store import chunk_index as travel
from restore_driver.store.backend import Backend, manifest_of, place_of
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.catalog import digest_of, read_small
from restore_driver.store.chunk_index import PIECE_BYTES, Travel, TravellingFile
from restore_driver.store.progress import TransferProgress
from restore_driver.store.task_group import Crew

FILES_AT_ONCE = 4
_REMEMBERED_BYTES = 16 << 20
"""A file of this size is worth an index of its own, should the push die."""


@dataclass(frozen=True)
class Pushed:
    """How a push ended."""

    outcome: str
    """`pushed`, or `there already`."""
    snapshot: str
    """What to stage."""
    bytes: int
    stored_bytes: int
    """All files as they lie in the store."""
    sent_bytes: int
    """Of these, what this push sent."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


class Push:
    """One push; `begun` tells whether the store was written to."""

    def __init__(self, artifact: Path, backend: Backend, limiter: Limiter, bar: TransferProgress) -> None:
        self.artifact, self.backend, self.limiter, self.bar = artifact.absolute(), backend, limiter, bar
        self.begun = False
        self._crew, self._lock = Crew(), threading.Lock()
        self._done: dict[str, TravellingFile] = {}
        self._sent_bytes = 0

    def run(self, *, again: bool = False) -> Pushed:
        """Pushes; `again` sends everything anew, also what is listed already.

        Raises:
            DriverError: NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file, BUSY, STORE_UNREACHABLE,
                DISK_FULL.
        """
        began_s = time.monotonic()
        require_trusted(self.artifact, owner=os.geteuid())
        with ExitStack() as stack:
            stack.enter_context(hold.reading(self.artifact))
            content = manifests.read(self.artifact)
            self._manifest = manifests.parse(content, str(self.artifact / manifests.NAME))
            for entry in self._manifest.files:
                travel.require_plain(entry.path)
            place = place_of(self._manifest.name, digest_of(content))
            if not again and self._is_listed(place):
                return self._result("there already", place, began_s)
            self._where = stack.enter_context(self.backend.uploading(place))
            self.begun = True
            if again:
                self.backend.remove(manifest_of(self._where))
            else:
                self._remember_earlier()
            self._send_all(stack)
            self._write_index()
            self._look_again()
            self.backend.publish(place, content)
        return self._result("pushed", place, began_s)

    def _is_listed(self, place: str) -> bool:
        return any(found.name == manifest_of(place) for found in self.backend.walk(place))

    def _remember_earlier(self) -> None:
        """Files of an earlier push that need not be sent again."""
        with suppress(DriverError):
            index = f"{self._where}/{travel.NAME}"
            earlier = travel.parse(read_small(self.backend, index, travel.LARGEST_BYTES), index)
            if earlier.piece_bytes != PIECE_BYTES:
                return
            sizes = {found.name: found.size_bytes for found in self.backend.walk(self._where)}
            known = {entry.path for entry in self._manifest.files}
            self._done = {
                file.path: file
                for file in earlier.files
                if file.path in known and sizes.get(travel.object_of(self._where, file.path)) == file.starts()[-1]
            }

    def _send_all(self, stack: ExitStack) -> None:
        self.bar.expect(sum(entry.size_bytes for entry in self._manifest.files))
        directory = os.open(self.artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        packers = stack.enter_context(ThreadPoolExecutor(max_workers=os.cpu_count()))
        missing = [entry for entry in self._manifest.files if entry.path not in self._done]
        self.bar.add(sum(entry.size_bytes for entry in self._manifest.files if entry.path in self._done))
        missing.sort(key=lambda entry: -entry.size_bytes)  # the longest first, or it ends alone
        self._crew.run([partial(self._send, entry, directory, packers) for entry in missing], FILES_AT_ONCE)

    def _send(self, entry: FileEntry, directory: int, packers: ThreadPoolExecutor) -> None:
        try:
            fd = open_regular(directory, entry.path)
        except OSError as error:
            raise _changed(self.artifact / entry.path, error.strerror or "") from error
        sizes: list[int] = []
        digests: list[str] = []
        try:
            with self.backend.write(travel.object_of(self._where, entry.path), entry.size_bytes) as write:
                for stored, digest in self._packed(entry, fd, packers):
                    self._crew.go_on()
                    self.limiter.take(len(stored))
                    write(stored)
                    sizes.append(len(stored))
                    digests.append(digest)
        finally:
            os.close(fd)
        with self._lock:
            self._done[entry.path] = TravellingFile(path=entry.path, stored_bytes=tuple(sizes), digests=tuple(digests))
            self._sent_bytes += sum(sizes)
            if entry.size_bytes >= _REMEMBERED_BYTES:
                self._write_index()

    def _packed(self, entry: FileEntry, fd: int, packers: ThreadPoolExecutor) -> Iterator[tuple[bytes, str]]:
        """The pieces in order, packed ahead; raises DIGEST_MISMATCH after the last if the file was another."""
        hasher, size_bytes = blake3(max_threads=blake3.AUTO), 0
        ahead: deque[tuple[int, Future[tuple[bytes, str]]]] = deque()
        while piece := _read_piece(fd):
            hasher.update(piece)
            size_bytes += len(piece)
            if size_bytes > entry.size_bytes:
                break
            ahead.append((len(piece), packers.submit(travel.pack, piece)))
            if len(ahead) > 2 * (os.cpu_count() or 1):
                yield self._next(ahead)
        while ahead:
            yield self._next(ahead)
        if (size_bytes, hasher.hexdigest()) != (entry.size_bytes, entry.digest):
            raise _changed(self.artifact / entry.path, "its digest is another")

    def _next(self, ahead: deque[tuple[int, Future[tuple[bytes, str]]]]) -> tuple[bytes, str]:
        size, future = ahead.popleft()
        packed = future.result()
        self.bar.add(size)
        return packed

    def _write_index(self) -> None:
        order = [entry.path for entry in self._manifest.files if entry.path in self._done]
        index = Travel(piece_bytes=PIECE_BYTES, files=tuple(self._done[path] for path in order))
        content = index.model_dump_json().encode()
        with self.backend.write(f"{self._where}/{travel.NAME}", len(content)) as write:
            write(content)

    def _look_again(self) -> None:
        """All is there in its size: another push of the same snapshot by another version could have come between."""
        sizes = {found.name: found.size_bytes for found in self.backend.walk(self._where)}
        for file in self._done.values():
            name = travel.object_of(self._where, file.path)
            if sizes.get(name) != file.starts()[-1]:
                raise DriverError(
                    Reason.STORE_UNREACHABLE, f"{self.backend.url}/{name} isn't what was sent", "push again"
                )

    def _result(self, outcome: str, place: str, began_s: float) -> Pushed:
        stored = sum(file.starts()[-1] for file in self._done.values())
        if outcome != "pushed":
            stored = sum(found.size_bytes for found in self.backend.walk(f"{place}/files"))
        return Pushed(
            outcome=outcome,
            snapshot=f"{self.backend.url}/{place}",
            bytes=sum(entry.size_bytes for entry in self._manifest.files),
            stored_bytes=stored,
            sent_bytes=self._sent_bytes,
            seconds=round(time.monotonic() - began_s, 3),
        )


def _read_piece(fd: int) -> bytes:
    """The next piece, whole unless the file ends."""
    piece = bytearray()
    while len(piece) < PIECE_BYTES and (chunk := os.read(fd, PIECE_BYTES - len(piece))):
        if not piece and len(chunk) == PIECE_BYTES:
            return chunk
        piece += chunk
    return bytes(piece)


def _changed(path: Path, how: str) -> DriverError:
    return DriverError(Reason.DIGEST_MISMATCH, f"{path} is not what was dumped: {how}", "make the snapshot anew")
