"""From a store to a node: fetched in pieces side by side, verified, sealed, and there by one rename.

In this order: find the snapshot; nothing to do if it is there and its seal holds; room; the missing pieces; the digest
of each file as its last piece came; the seal, still under the hidden name; the rename. Until that an older artifact in
the same place is as it was, and after it there is the new one. A stage that broke off, or was killed, is taken up by
the next one of the same snapshot.
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

from restore_driver.artifact import manifest as manifests
from restore_driver.artifact import read_lock as hold
from restore_driver.artifact.digest import digest_file
from restore_driver.artifact.manifest import FileEntry, Manifest
from restore_driver.artifact.publish import refuse_what_is_no_artifact, swap_in
from restore_driver.artifact.seal import check_seal, seal_as_it_is, seal_path, verify_and_seal
from restore_driver.errors import DriverError, Reason
from restore_driver.host.atomic import replace_durably
from restore_driver.host.disk import is_full
from restore_driver.host.trusted import require_trusted
from restore_driver.store import chunk_index as travel
from restore_driver.store.backend import Backend
from restore_driver.store.bandwidth import Limiter
from restore_driver.store.catalog import digest_of, find, load_manifest, read_small
from restore_driver.store.fetch import Fetch, Line, PieceRun
from restore_driver.store.free_space import huge_bytes, make_memory, require_disk
from restore_driver.store.progress import TransferProgress
from restore_driver.store.staging import Staging
from restore_driver.store.task_group import Crew

STREAMS = 8
"""Ranges fetched at once: one stream of an object store is slower than a network card."""


@dataclass(frozen=True)
class Staged:
    """How a stage ended."""

    outcome: str
    """`staged`, `there already`, or `sealed again`: it was there without a good seal, and its digests are right."""
    artifact: str
    snapshot: str
    bytes: int
    stored_bytes: int
    """Its files as they lie in the store."""
    fetched_bytes: int
    """Of these, what this stage fetched."""
    resumed_bytes: int
    """Of these, what an earlier stage had fetched."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


class Stage:
    """One stage; `begun` tells whether something was written."""

    def __init__(
        self, backend: Backend, target: Path, limiter: Limiter, bar: TransferProgress, patience_s: float
    ) -> None:
        self.backend, self.target, self.bar = backend, target.absolute(), bar
        self.begun = False
        self._crew = Crew()
        self._line = Line(limiter, patience_s)
        self._began_s = time.monotonic()

    def run(self, name: str, digest: str | None, *, available_memory_bytes: Callable[[], int] | None = None) -> Staged:
        """Stages; with `available_memory_bytes` into a tmpfs of huge pages, which it mounts if there is none.

        Raises:
            DriverError: REQUEST_INVALID, NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH naming the file, BUSY,
                DISK_FULL, TOO_LITTLE_MEMORY, STORE_UNREACHABLE.
        """
        parent = self.target.parent
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_trusted(parent, owner=os.geteuid())
        refuse_what_is_no_artifact(self.target)
        place = find(self.backend, name, digest)
        with ExitStack() as stack:
            stack.enter_context(self.backend.reading(place))
            manifest, content = load_manifest(self.backend, place)
            for entry in manifest.files:
                travel.require_plain(entry.path)
            if (outcome := self._as_it_is(content)) is not None:
                return self._result(outcome, place, manifest, None, 0)
            fetch = self._find_pieces(place, manifest)
            sizes = [entry.size_bytes for entry in manifest.files]
            if available_memory_bytes is not None:
                make_memory(parent, sizes, available_memory_bytes())
            staging = stack.enter_context(Staging.open(self.target, digest_of(content), fetch.piece_bytes))
            needed = sum(sizes) if available_memory_bytes is None else huge_bytes(sizes)
            require_disk(parent, needed - staging.used_bytes())
            resumed = self._bring(fetch, staging, manifest)
            self._publish(staging, content)
        return self._result("staged", place, manifest, fetch, resumed)

    def _as_it_is(self, content: bytes) -> str | None:
        """What is to be said of an artifact that is there; None when it must be staged."""
        try:
            if manifests.read(self.target) != content:
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

    def _find_pieces(self, place: str, manifest: Manifest) -> Fetch:
        name = f"{place}/{travel.NAME}"
        index = travel.parse(read_small(self.backend, name, travel.LARGEST_BYTES), f"{self.backend.url}/{name}")
        files = travel.matched(index, manifest, f"{self.backend.url}/{name}")
        return Fetch(self.backend, place, manifest.files, files, index.piece_bytes)

    def _bring(self, fetch: Fetch, staging: Staging, manifest: Manifest) -> int:
        """Fetches what is missing; returns how many bytes weren't.

        A file whose digest is wrong in the end, by a bad disk or a record that lies, is fetched once more.
        """
        self.begun = True
        total_bytes = sum(entry.size_bytes for entry in manifest.files)
        missing = fetch.missing(staging.done())
        resumed_bytes = fetch.stored_bytes() - sum(run.stored_bytes for run in missing)
        self.bar.expect(total_bytes)
        self.bar.add(total_bytes - sum(run.raw_bytes for run in missing))
        try:
            wrong = self._round(range(len(manifest.files)), missing, fetch, staging)
            for number in wrong:
                staging.discard(manifest.files[number].path, number)
            if wrong:
                wrong = self._round(wrong, fetch.missing(staging.done()), fetch, staging)
        except OSError as error:
            if is_full(error):
                raise DriverError(Reason.DISK_FULL, f"{self.target.parent} is full", "free some space") from error
            raise DriverError(Reason.INTERNAL, f"{staging.path}: {error}") from error
        if wrong:
            where = f"{self.backend.url}/{travel.object_of(fetch.place, manifest.files[wrong[0]].path)}"
            raise DriverError(Reason.DIGEST_MISMATCH, f"{where} is not what was dumped", "forethaw push --again")
        return resumed_bytes

    def _round(self, files: Iterable[int], missing: list[PieceRun], fetch: Fetch, staging: Staging) -> list[int]:
        """Fetches runs and looks at each file when its last one came; returns the numbers of those that are wrong."""
        left = Counter(run.file for run in missing)
        whole = [number for number in files if not left[number]]
        wrong: list[int] = []
        lock = threading.Lock()

        def look(number: int) -> None:
            self._crew.go_on()
            entry = fetch.entries[number]
            staging.finish(entry.path, entry.size_bytes)
            if not _is_as_dumped(staging.artifact, entry):
                wrong.append(number)

        def bring(run: PieceRun) -> None:
            fetch.bring(run, staging, self._line, self._crew, self.bar)
            with lock:
                left[run.file] -= 1
                last = not left[run.file]
            if last:
                look(run.file)

        self._crew.run([*(partial(bring, run) for run in missing), *(partial(look, each) for each in whole)], STREAMS)
        return sorted(wrong)

    def _publish(self, staging: Staging, content: bytes) -> None:
        staging.discard(manifests.NAME)
        staging.write(manifests.NAME, 0, content)
        staging.finish(manifests.NAME, len(content))
        staging.sync_directories()
        staging.close()  # the kernel watches no file (fs-verity) that somebody may still write
        seal_as_it_is(staging.artifact)
        with hold.alone(self.target) if self.target.exists() else nullcontext():
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
