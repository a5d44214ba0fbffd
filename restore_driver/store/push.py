"""Push an artifact from a node into a store: read, verify, compress and send in one pass; the manifest last.

Files are sent in parallel, and so are the chunks of each compressed. After each large file the index is written again,
so that the next push resumes a killed one: files that the index names and the store has in that size are not sent a
second time. (The push that sent them verified their digests; a stage verifies all.)
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

from restore_driver.artifact.digest import open_regular
from restore_driver.artifact.manifest import MANIFEST_NAME, FileEntry, parse_manifest, read_manifest_bytes
from restore_driver.artifact.read_lock import shared_lock
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.store import chunk_index
from restore_driver.store.backend import Backend, manifest_of, place_of
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.catalog import read_small, short_digest
from restore_driver.store.chunk_index import CHUNK_BYTES, ChunkedFile, ChunkIndex
from restore_driver.store.progress import TransferProgress
from restore_driver.store.task_group import TaskGroup

FILES_AT_ONCE = 4
_REMEMBERED_BYTES = 16 << 20
"""Write the index after a file of this size, so that a killed push does not send it again."""


@dataclass(frozen=True)
class Pushed:
    """The result of a push."""

    outcome: str
    """`pushed`, or `there already`."""
    snapshot: str
    """The snapshot's address, for `stage`."""
    bytes: int
    """Size of its files on a node."""
    stored_bytes: int
    """Size of its files in the store."""
    sent_bytes: int
    """Bytes of these that this push sent."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the members of its JSON."""
        return asdict(self)


class Push:
    """One push; `begun` is True once the store has been written to."""

    def __init__(self, artifact: Path, backend: Backend, limiter: Limiter, bar: TransferProgress) -> None:
        self.artifact, self.backend, self.limiter, self.bar = artifact.absolute(), backend, limiter, bar
        self.begun = False
        self._tasks, self._lock = TaskGroup(), threading.Lock()
        self._done: dict[str, ChunkedFile] = {}
        self._sent_bytes = 0

    def run(self, *, again: bool = False) -> Pushed:
        """Push the artifact; `again` sends everything again, also what is listed already.

        Raises:
            DriverError: NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file, BUSY, STORE_UNREACHABLE,
                DISK_FULL.
        """
        began_s = time.monotonic()
        require_trusted(self.artifact, owner=os.geteuid())
        with ExitStack() as stack:
            stack.enter_context(shared_lock(self.artifact))
            content = read_manifest_bytes(self.artifact)
            self._manifest = parse_manifest(content, str(self.artifact / MANIFEST_NAME))
            for entry in self._manifest.files:
                chunk_index.require_plain(entry.path)
            place = place_of(self._manifest.name, short_digest(content))
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
            self._verify_sizes()
            self.backend.publish(place, content)
        return self._result("pushed", place, began_s)

    def _is_listed(self, place: str) -> bool:
        return any(found.name == manifest_of(place) for found in self.backend.walk(place))

    def _remember_earlier(self) -> None:
        """Note the files of an interrupted push that need not be sent again."""
        with suppress(DriverError):
            index = f"{self._where}/{chunk_index.NAME}"
            earlier = chunk_index.parse(read_small(self.backend, index, chunk_index.LARGEST_BYTES), index)
            if earlier.chunk_bytes != CHUNK_BYTES:
                return
            sizes = {found.name: found.size_bytes for found in self.backend.walk(self._where)}
            known = {entry.path for entry in self._manifest.files}
            self._done = {
                file.path: file
                for file in earlier.files
                if file.path in known and sizes.get(chunk_index.object_of(self._where, file.path)) == file.starts()[-1]
            }

    def _send_all(self, stack: ExitStack) -> None:
        self.bar.expect(sum(entry.size_bytes for entry in self._manifest.files))
        directory = os.open(self.artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        packers = stack.enter_context(ThreadPoolExecutor(max_workers=os.cpu_count()))
        missing = [entry for entry in self._manifest.files if entry.path not in self._done]
        self.bar.add(sum(entry.size_bytes for entry in self._manifest.files if entry.path in self._done))
        missing.sort(key=lambda entry: -entry.size_bytes)  # the longest first, else it is left to run by itself
        self._tasks.run([partial(self._send, entry, directory, packers) for entry in missing], FILES_AT_ONCE)

    def _send(self, entry: FileEntry, directory: int, packers: ThreadPoolExecutor) -> None:
        try:
            fd = open_regular(directory, entry.path)
        except OSError as error:
            raise _changed(self.artifact / entry.path, error.strerror or "") from error
        sizes: list[int] = []
        digests: list[str] = []
        try:
            with self.backend.write(chunk_index.object_of(self._where, entry.path), entry.size_bytes) as write:
                for stored, digest in self._packed(entry, fd, packers):
                    self._tasks.raise_if_stopped()
                    self.limiter.take(len(stored))
                    write(stored)
                    sizes.append(len(stored))
                    digests.append(digest)
        finally:
            os.close(fd)
        with self._lock:
            self._done[entry.path] = ChunkedFile(path=entry.path, stored_bytes=tuple(sizes), digests=tuple(digests))
            self._sent_bytes += sum(sizes)
            if entry.size_bytes >= _REMEMBERED_BYTES:
                self._write_index()

    def _packed(self, entry: FileEntry, fd: int, packers: ThreadPoolExecutor) -> Iterator[tuple[bytes, str]]:
        """Yield the chunks in order, compressed ahead; raise DIGEST_MISMATCH after the last if the file changed."""
        hasher, size_bytes = blake3(max_threads=blake3.AUTO), 0
        ahead: deque[tuple[int, Future[tuple[bytes, str]]]] = deque()
        while chunk := _read_chunk(fd):
            hasher.update(chunk)
            size_bytes += len(chunk)
            if size_bytes > entry.size_bytes:
                break
            ahead.append((len(chunk), packers.submit(chunk_index.pack, chunk)))
            if len(ahead) > 2 * (os.cpu_count() or 1):
                yield self._next(ahead)
        while ahead:
            yield self._next(ahead)
        if (size_bytes, hasher.hexdigest()) != (entry.size_bytes, entry.digest):
            raise _changed(self.artifact / entry.path, "its digest differs")

    def _next(self, ahead: deque[tuple[int, Future[tuple[bytes, str]]]]) -> tuple[bytes, str]:
        size, future = ahead.popleft()
        packed = future.result()
        self.bar.add(size)
        return packed

    def _write_index(self) -> None:
        order = [entry.path for entry in self._manifest.files if entry.path in self._done]
        index = ChunkIndex(chunk_bytes=CHUNK_BYTES, files=tuple(self._done[path] for path in order))
        content = index.model_dump_json().encode()
        with self.backend.write(f"{self._where}/{chunk_index.NAME}", len(content)) as write:
            write(content)

    def _verify_sizes(self) -> None:
        """Refuse objects of another size: a concurrent push by another release may have written them."""
        sizes = {found.name: found.size_bytes for found in self.backend.walk(self._where)}
        for file in self._done.values():
            name = chunk_index.object_of(self._where, file.path)
            if sizes.get(name) != file.starts()[-1]:
                raise DriverError(
                    Reason.STORE_UNREACHABLE, f"{self.backend.url}/{name} is not what was sent", "push again"
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


def _read_chunk(fd: int) -> bytes:
    """Return the next chunk, whole unless the file ends; empty at the end."""
    chunk = bytearray()
    while len(chunk) < CHUNK_BYTES and (block := os.read(fd, CHUNK_BYTES - len(chunk))):
        if not chunk and len(block) == CHUNK_BYTES:
            return block
        chunk += block
    return bytes(chunk)


def _changed(path: Path, how: str) -> DriverError:
    return DriverError(Reason.DIGEST_MISMATCH, f"{path} is not what was dumped: {how}", "make the snapshot again")
