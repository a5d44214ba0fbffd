"""Fetch chunks in runs of neighbours, one request a run; each chunk is verified and written as it arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from restore_driver.artifact.manifest import FileEntry
from restore_driver.deadline import Clock
from restore_driver.errors import DriverError, Reason
from restore_driver.store import chunk_index
from restore_driver.store.backend import Backend
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.chunk_index import ChunkedFile
from restore_driver.store.progress import TransferProgress
from restore_driver.store.staging import Staging
from restore_driver.store.task_group import TaskGroup

_RUN_BYTES = 64 << 20
"""Bytes of one request, before compression: enough for full network speed, few enough that all streams have one."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 3.0


class Line:
    """The connection to the store that all streams share: its bandwidth limit and its retries."""

    def __init__(
        self,
        limiter: Limiter,
        patience_s: float,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limiter, self._patience_s, self._clock, self._sleep = limiter, patience_s, clock, sleep
        self._succeeded_s, self._failures, self._lock = clock(), 0, threading.Lock()

    def succeeded(self) -> None:
        """Note that a chunk arrived: the back-off starts again."""
        with self._lock:
            self._succeeded_s, self._failures = self._clock(), 0

    def failed(self, error: DriverError) -> None:
        """Sleep before the next try, twice as long each time since the last chunk that arrived.

        Raises:
            DriverError: `error`, if no chunk arrived for longer than the patience.
        """
        with self._lock:
            self._failures += 1
            pause_s = min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S)
            if self._clock() + pause_s - self._succeeded_s > self._patience_s:
                raise error
        self._sleep(pause_s)


@dataclass(frozen=True)
class ChunkRun:
    """Neighbouring chunks of one file, from `first` to before `end`; sizes before and after compression."""

    file: int
    first: int
    end: int
    stored_bytes: int
    raw_bytes: int


class Fetch:
    """The chunks of one snapshot; `fetched_bytes` counts what arrived, valid or not."""

    def __init__(
        self,
        backend: Backend,
        place: str,
        entries: tuple[FileEntry, ...],
        files: tuple[ChunkedFile, ...],
        chunk_bytes: int,
    ) -> None:
        self.backend, self.place, self.chunk_bytes, self.fetched_bytes = backend, place, chunk_bytes, 0
        self.entries, self._files = entries, files
        self._starts = [file.starts() for file in files]
        self._sizes = [chunk_index.chunk_sizes(entry.size_bytes, chunk_bytes) for entry in entries]
        self._lock = threading.Lock()

    def stored_bytes(self) -> int:
        """Return the stored size of all files."""
        return sum(starts[-1] for starts in self._starts)

    def missing(self, done: Mapping[int, set[int]]) -> list[ChunkRun]:
        """Return the runs of chunks to fetch, those of the longest file first; `done` has chunks by file number."""
        runs = []
        longest_run = max(1, _RUN_BYTES // self.chunk_bytes)
        for number, sizes in sorted(enumerate(self._sizes), key=lambda each: -len(each[1])):
            there, first = done.get(number, set()), 0
            while first < len(sizes):
                if first in there:
                    first += 1
                    continue
                end = first + 1
                while end < len(sizes) and end not in there and end - first < longest_run:
                    end += 1
                runs.append(self._run(number, first, end))
                first = end
        return runs

    def bring(self, run: ChunkRun, staging: Staging, line: Line, tasks: TaskGroup, bar: TransferProgress) -> None:
        """Fetch a run into its file. A failed request resumes at the next chunk, an invalid chunk is fetched once more.

        Raises:
            DriverError: STORE_UNREACHABLE, DIGEST_MISMATCH naming the file.
            StoppedError: another task of the group failed.
        """
        at, bad = run.first, -1
        while at < run.end:
            try:
                for chunk, content in self._stream(run.file, at, run.end, line, tasks):
                    self._write(run.file, chunk, content, staging)
                    bar.add(len(content))
                    line.succeeded()
                    at = chunk + 1
            except DriverError as error:
                if error.reason is Reason.STORE_UNREACHABLE:
                    line.failed(error)
                elif isinstance(error, _BadChunkError) and bad != at:
                    bad = at
                else:
                    raise

    def _stream(self, file: int, first: int, end: int, line: Line, tasks: TaskGroup) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the verified content of each chunk as it arrives."""
        starts, buffer, chunk = self._starts[file], bytearray(), first
        name = chunk_index.object_of(self.place, self.entries[file].path)
        for block in self.backend.read(name, starts[first], starts[end]):
            tasks.raise_if_stopped()
            line.limiter.take(len(block))
            with self._lock:
                self.fetched_bytes += len(block)
            buffer += block
            while chunk < end and len(buffer) >= (size := starts[chunk + 1] - starts[chunk]):
                yield chunk, self._unpacked(file, chunk, bytes(memoryview(buffer)[:size]))
                del buffer[:size]
                chunk += 1
        if chunk < end:
            raise _BadChunkError(Reason.DIGEST_MISMATCH, f"{self.backend.url}/{name} is shorter than it was", _HINT)

    def _unpacked(self, file: int, chunk: int, stored: bytes) -> bytes:
        content = chunk_index.unpack(stored, self._files[file].digests[chunk], self._sizes[file][chunk])
        if content is None:
            name = chunk_index.object_of(self.place, self.entries[file].path)
            raise _BadChunkError(Reason.DIGEST_MISMATCH, f"{self.backend.url}/{name} is not what was pushed", _HINT)
        return content

    def _write(self, file: int, chunk: int, content: bytes, staging: Staging) -> None:
        staging.write(self.entries[file].path, chunk * self.chunk_bytes, content)
        staging.note(file, chunk)

    def _run(self, file: int, first: int, end: int) -> ChunkRun:
        starts = self._starts[file]
        return ChunkRun(file, first, end, starts[end] - starts[first], sum(self._sizes[file][first:end]))


class _BadChunkError(DriverError):
    """Stored bytes that do not match the index."""


_HINT = "push it again (forethaw push --again)"
