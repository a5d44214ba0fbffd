"""Stage a snapshot from a store to a node: fetch its chunks in parallel, verify, seal, and publish by one rename.

In this order: find the snapshot; end if it is here and its seal is valid; check free space; fetch the missing chunks;
verify the digest of each file after its last chunk; seal, still under the hidden name; rename. Until the rename an
older artifact in the same place is unchanged. The next stage of the same snapshot resumes an interrupted one.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from restore_driver.artifact.digest import digest_file
from restore_driver.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest_bytes
from restore_driver.artifact.publish import require_replaceable, swap_in
from restore_driver.artifact.read_lock import exclusive_lock
from restore_driver.artifact.seal import check_seal, seal_as_it_is, seal_path, verify_and_seal
from restore_driver.errors import DriverError, Reason
from restore_driver.host.atomic import replace_durably
from restore_driver.host.disk import is_full
from restore_driver.host.trusted import require_trusted
from restore_driver.store import chunk_index
from restore_driver.store.backend import Backend
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.catalog import fetch_manifest, find, read_small, short_digest
from restore_driver.store.fetch import ChunkRun, Fetch, Line
from restore_driver.store.free_space import huge_bytes, make_memory, require_disk
from restore_driver.store.progress import TransferProgress
from restore_driver.store.staging import Staging
from restore_driver.store.task_group import TaskGroup

STREAMS = 8
"""Ranges fetched in parallel: one stream of an object store is slower than a network interface."""


@dataclass(frozen=True)
class Staged:
    """The result of a stage."""

    outcome: str
    """`staged`, `there already`, or `sealed again`: it was here without a valid seal, and its digests are right."""
    artifact: str
    snapshot: str
    bytes: int
    """Size of its files on the node."""
    stored_bytes: int
    """Size of its files in the store."""
    fetched_bytes: int
    """Bytes of these that this stage fetched."""
    resumed_bytes: int
    """Bytes of these that an earlier stage had fetched."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the members of its JSON."""
        return asdict(self)


class Stage:
    """One stage; `begun` is True once something has been written."""

    def __init__(
        self, backend: Backend, target: Path, limiter: Limiter, bar: TransferProgress, patience_s: float
    ) -> None:
        self.backend, self.target, self.bar = backend, target.absolute(), bar
        self.begun = False
        self._tasks = TaskGroup()
        self._line = Line(limiter, patience_s)
        self._began_s = time.monotonic()

    def run(self, name: str, digest: str | None, *, available_memory_bytes: Callable[[], int] | None = None) -> Staged:
        """Stage the snapshot; with `available_memory_bytes` into a tmpfs of huge pages, mounted if there is none.

        Raises:
            DriverError: REQUEST_INVALID, NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file, BUSY,
                DISK_FULL, TOO_LITTLE_MEMORY, STORE_UNREACHABLE.
        """
        parent = self.target.parent
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_trusted(parent, owner=os.geteuid())
        require_replaceable(self.target)
        place = find(self.backend, name, digest)
        with ExitStack() as stack:
            stack.enter_context(self.backend.reading(place))
            manifest, content = fetch_manifest(self.backend, place)
            for entry in manifest.files:
                chunk_index.require_plain(entry.path)
            if (outcome := self._outcome_of_existing(content)) is not None:
                return self._result(outcome, place, manifest, None, 0)
            fetch = self._find_chunks(place, manifest)
            sizes = [entry.size_bytes for entry in manifest.files]
            if available_memory_bytes is not None:
                make_memory(parent, sizes, available_memory_bytes())
            staging = stack.enter_context(Staging.open(self.target, short_digest(content), fetch.chunk_bytes))
            needed = sum(sizes) if available_memory_bytes is None else huge_bytes(sizes)
            require_disk(parent, needed - staging.used_bytes())
            resumed = self._fetch_missing(fetch, staging, manifest)
            self._publish(staging, content)
        return self._result("staged", place, manifest, fetch, resumed)

    def _outcome_of_existing(self, content: bytes) -> str | None:
        """Return the outcome if this snapshot is at the target already; None if it must be staged."""
        try:
            if read_manifest_bytes(self.target) != content:
                return None
            check_seal(self.target)
        except DriverError as error:
            if error.reason is not Reason.SEAL_BROKEN:
                return None
            try:
                verify_and_seal(self.target)
            except DriverError:
                return None
            return "sealed again"
        return "there already"

    def _find_chunks(self, place: str, manifest: Manifest) -> Fetch:
        name = f"{place}/{chunk_index.NAME}"
        self._refuse_old_index(place)
        index = chunk_index.parse(
            read_small(self.backend, name, chunk_index.LARGEST_BYTES), f"{self.backend.url}/{name}"
        )
        files = chunk_index.matched(index, manifest, f"{self.backend.url}/{name}")
        return Fetch(self.backend, place, manifest.files, files, index.chunk_bytes)

    def _refuse_old_index(self, place: str) -> None:
        names = {found.name for found in self.backend.walk(place)}
        old = f"{place}/{chunk_index.OLD_NAME}"
        if old in names and f"{place}/{chunk_index.NAME}" not in names:
            problem = f"{self.backend.url}/{old} is the index of an older release"
            raise DriverError(Reason.MANIFEST_INVALID, problem, "push it again (forethaw push --again)")

    def _fetch_missing(self, fetch: Fetch, staging: Staging, manifest: Manifest) -> int:
        """Fetch the missing chunks and return the stored bytes that an earlier stage had fetched.

        A file whose digest is wrong in the end, for example because of the disk, is fetched once more.
        """
        self.begun = True
        total_bytes = sum(entry.size_bytes for entry in manifest.files)
        missing = fetch.missing(staging.done())
        resumed_bytes = fetch.stored_bytes() - sum(run.stored_bytes for run in missing)
        self.bar.expect(total_bytes)
        self.bar.add(total_bytes - sum(run.raw_bytes for run in missing))
        try:
            wrong = self._fetch_runs(range(len(manifest.files)), missing, fetch, staging)
            for number in wrong:
                staging.discard(manifest.files[number].path, number)
            if wrong:
                wrong = self._fetch_runs(wrong, fetch.missing(staging.done()), fetch, staging)
        except OSError as error:
            if is_full(error):
                raise DriverError(Reason.DISK_FULL, f"{self.target.parent} is full", "free some space") from error
            raise DriverError(Reason.INTERNAL, f"{staging.path}: {error}") from error
        if wrong:
            where = f"{self.backend.url}/{chunk_index.object_of(fetch.place, manifest.files[wrong[0]].path)}"
            raise DriverError(Reason.DIGEST_MISMATCH, f"{where} is not what was dumped", "forethaw push --again")
        return resumed_bytes

    def _fetch_runs(self, files: Iterable[int], missing: list[ChunkRun], fetch: Fetch, staging: Staging) -> list[int]:
        """Fetch runs, verify each file after its last one, and return the numbers of files whose digest is wrong."""
        left = Counter(run.file for run in missing)
        whole = [number for number in files if not left[number]]
        wrong: list[int] = []
        lock = threading.Lock()

        def verify(number: int) -> None:
            self._tasks.raise_if_stopped()
            entry = fetch.entries[number]
            staging.finish(entry.path, entry.size_bytes)
            if not _is_as_dumped(staging.artifact, entry):
                wrong.append(number)

        def bring(run: ChunkRun) -> None:
            fetch.bring(run, staging, self._line, self._tasks, self.bar)
            with lock:
                left[run.file] -= 1
                last = not left[run.file]
            if last:
                verify(run.file)

        self._tasks.run(
            [*(partial(bring, run) for run in missing), *(partial(verify, each) for each in whole)], STREAMS
        )
        return sorted(wrong)

    def _publish(self, staging: Staging, content: bytes) -> None:
        staging.discard(MANIFEST_NAME)
        staging.write(MANIFEST_NAME, 0, content)
        staging.finish(MANIFEST_NAME, len(content))
        staging.sync_directories()
        staging.close()  # fs-verity cannot be enabled while a file is open for writing
        seal_as_it_is(staging.artifact)
        with exclusive_lock(self.target) if self.target.exists() else nullcontext():
            swap_in(staging.artifact, self.target)
            replace_durably(seal_path(staging.artifact), seal_path(self.target))
        shutil.rmtree(staging.path, ignore_errors=True)

    def _result(self, outcome: str, place: str, manifest: Manifest, fetch: Fetch | None, resumed_bytes: int) -> Staged:
        return Staged(
            outcome=outcome,
            artifact=str(self.target),
            snapshot=f"{self.backend.url}/{place}",
            bytes=sum(entry.size_bytes for entry in manifest.files),
            stored_bytes=0 if fetch is None else fetch.stored_bytes(),
            fetched_bytes=0 if fetch is None else fetch.fetched_bytes,
            resumed_bytes=resumed_bytes,
            seconds=round(time.monotonic() - self._began_s, 3),
        )


def _is_as_dumped(directory: Path, entry: FileEntry) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return digest_file(fd, entry.path) == (entry.size_bytes, entry.digest)
    finally:
        os.close(fd)
