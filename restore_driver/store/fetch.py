"""Fetching pieces: in runs of neighbours, a request each; a piece is checked, unpacked and written as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from restore_driver.artifact.manifest import FileEntry
from restore_driver.deadline import Clock
from restore_driver.errors import DriverError, Reason
from restore_driver.store import chunk_index as travel
from restore_driver.store.backend import Backend
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.chunk_index import TravellingFile
from restore_driver.store.progress import TransferProgress
from restore_driver.store.staging import Staging
from restore_driver.store.task_group import Crew

_RUN_BYTES = 64 << 20
"""Of one request, before packing: long enough for the network's speed, short enough that all streams have one."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 3.0


class Line:
    """The way to the store that all streams share: its limit, and how long it may be broken."""

    def __init__(
        self,
        limiter: Limiter,
        patience_s: float,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limiter, self._patience_s, self._clock, self._sleep = limiter, patience_s, clock, sleep
        self._worked_s, self._failures, self._lock = clock(), 0, threading.Lock()

    def worked(self) -> None:
        """A piece came."""
        with self._lock:
            self._worked_s, self._failures = self._clock(), 0

    def broke(self, error: DriverError) -> None:
        """Waits before another try, longer each time, since the last piece that came.

        Raises:
            DriverError: the error, when nothing came for longer than the patience.
        """
        with self._lock:
            self._failures += 1
            pause_s = min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S)
            if self._clock() + pause_s - self._worked_s > self._patience_s:
                raise error
        self._sleep(pause_s)


@dataclass(frozen=True)
class PieceRun:
    """Neighbouring pieces of one file, from `first` to before `end`."""

    file: int
    first: int
    end: int
    stored_bytes: int
    raw_bytes: int


class Fetch:
    """The pieces of one snapshot; `fetched_bytes` counts what came, whether it was good or not."""

    def __init__(
        self,
        backend: Backend,
        place: str,
        entries: tuple[FileEntry, ...],
        files: tuple[TravellingFile, ...],
        piece_bytes: int,
    ) -> None:
        self.backend, self.place, self.piece_bytes, self.fetched_bytes = backend, place, piece_bytes, 0
        self.entries, self._files = entries, files
        self._starts = [file.starts() for file in files]
        self._sizes = [travel.piece_sizes(entry.size_bytes, piece_bytes) for entry in entries]
        self._lock = threading.Lock()

    def stored_bytes(self) -> int:
        """All files as they lie in the store."""
        return sum(starts[-1] for starts in self._starts)

    def missing(self, done: Mapping[int, set[int]]) -> list[PieceRun]:
        """What is to be fetched, cut into runs; those of the longest file first."""
        runs = []
        longest_run = max(1, _RUN_BYTES // self.piece_bytes)
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

    def bring(self, run: PieceRun, staging: Staging, line: Line, crew: Crew, bar: TransferProgress) -> None:
        """Brings a run into its file. A broken line is taken up at the next piece, a bad piece is fetched once more.

        Raises:
            DriverError: STORE_UNREACHABLE, DIGEST_MISMATCH naming the file.
        """
        at, bad = run.first, -1
        while at < run.end:
            try:
                for piece, content in self._stream(run.file, at, run.end, line, crew):
                    self._write(run.file, piece, content, staging)
                    bar.add(len(content))
                    line.worked()
                    at = piece + 1
            except DriverError as error:
                if error.reason is Reason.STORE_UNREACHABLE:
                    line.broke(error)
                elif isinstance(error, _BadPiece) and bad != at:
                    bad = at
                else:
                    raise

    def _stream(self, file: int, first: int, end: int, line: Line, crew: Crew) -> Iterator[tuple[int, bytes]]:
        """Checked and unpacked pieces as they come."""
        starts, buffer, piece = self._starts[file], bytearray(), first
        name = travel.object_of(self.place, self.entries[file].path)
        for chunk in self.backend.read(name, starts[first], starts[end]):
            crew.go_on()
            line.limiter.take(len(chunk))
            with self._lock:
                self.fetched_bytes += len(chunk)
            buffer += chunk
            while piece < end and len(buffer) >= (size := starts[piece + 1] - starts[piece]):
                yield piece, self._unpacked(file, piece, bytes(memoryview(buffer)[:size]))
                del buffer[:size]
                piece += 1
        if piece < end:
            raise _BadPiece(Reason.DIGEST_MISMATCH, f"{self.backend.url}/{name} is shorter than it was", _MEND)

    def _unpacked(self, file: int, piece: int, stored: bytes) -> bytes:
        content = travel.unpack(stored, self._files[file].digests[piece], self._sizes[file][piece])
        if content is None:
            name = travel.object_of(self.place, self.entries[file].path)
            raise _BadPiece(Reason.DIGEST_MISMATCH, f"{self.backend.url}/{name} is not what was pushed", _MEND)
        return content

    def _write(self, file: int, piece: int, content: bytes, staging: Staging) -> None:
        staging.write(self.entries[file].path, piece * self.piece_bytes, content)
        staging.note(file, piece)

    def _run(self, file: int, first: int, end: int) -> PieceRun:
        starts = self._starts[file]
        return PieceRun(file, first, end, starts[end] - starts[first], sum(self._sizes[file][first:end]))


class _BadPiece(DriverError):
    """Bytes that aren't what the index says."""


_MEND = "push it again (forethaw push --again)"
