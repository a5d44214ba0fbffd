"""Drop zero pages from a dump: half of an engine's image is memory that was allocated and never written.

Safe where a page that the pagemap does not name reads as zero: in private anonymous memory, and in shared memory, which
CRIU keeps in images of its own and restores into a new, empty file. In a file's private mapping it would read as the
file, so those are not changed. Children that share pages with their parent by copy-on-write are safe as well: CRIU
drops an inherited page that the child's pagemap does not name (`restore_priv_vma_content`).

If a directory for offloaded memory is named, the rest is split: CRIU's own part, and the large pieces that a restore
fills in by itself (`offload_selection.py`).

New files are written beside the old ones, pages first, and each pair is renamed. If that is interrupted, the artifact
is unpublished and is dropped with its draft.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from restore_driver.criu.images import (
    IN_PARENT,
    PAGE_BYTES,
    Pagemap,
    PageRun,
    private_anonymous_ranges,
    read_pagemap,
    write_pagemap,
)
from restore_driver.criu.offload_selection import Piece, Ranges, append, plain_memory, split_offloaded
from restore_driver.errors import DriverError, Reason
from restore_driver.host.atomic import replace_keeping_owner

_CHUNK_PAGES = 4096
"""Pages compared together: 16 MiB stay in a core's cache and keep numpy's overhead small."""
_SHARED = "shmem-"
"""Part of the names of pagemaps of shared memory, whose addresses are offsets in it."""
_EVERYWHERE: Ranges = ((0, 1 << 64),)


@dataclass(frozen=True)
class Compaction:
    """The effect of compaction on a dump; sizes are of CRIU's pages and offloaded pages together."""

    before_bytes: int
    after_bytes: int
    pages: int
    zero_pages: int
    offloaded_bytes: int = 0
    """Bytes of `after_bytes` that this run moved into the directory of offloaded memory."""

    @property
    def saved_bytes(self) -> int:
        """Bytes of dropped zero pages."""
        return self.before_bytes - self.after_bytes

    @property
    def changed(self) -> bool:
        """True if the images were changed."""
        return bool(self.saved_bytes or self.offloaded_bytes)


def compact(
    images: Path, memory: Path | None = None, *, workers: int | None = None, check: Callable[[], object] = lambda: None
) -> Compaction:
    """Rewrite the page files of all tasks of a dump; repeating it changes nothing.

    Args:
        images: directory of CRIU's images.
        memory: directory for offloaded memory, created if needed; None leaves all memory to CRIU.
        workers: threads; None for one a core.
        check: called every few megabytes; an exception that it raises (a missed deadline) ends the work.

    Raises:
        DriverError: MANIFEST_INVALID naming a file that is not an image of CRIU's or is truncated.
        OSError: a file cannot be read or written; the old images are still valid.
    """
    tasks, shared = (
        sorted(path.stem.removeprefix("pagemap-") for path in images.glob(f"pagemap-{kind}[0-9]*.img"))
        for kind in ("", _SHARED)
    )
    plain = plain_memory(images, tasks) if memory is not None else {}
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        done = list(
            pool.map(lambda task: _compact_task(images, task, memory, plain.get(task, ()), check), [*tasks, *shared])
        )
    return Compaction(
        before_bytes=sum(each.before_bytes for each in done),
        after_bytes=sum(each.after_bytes for each in done),
        pages=sum(each.pages for each in done),
        zero_pages=sum(each.zero_pages for each in done),
        offloaded_bytes=sum(each.offloaded_bytes for each in done),
    )


def split(run: PageRun, ranges: Ranges, zero: np.ndarray) -> Iterator[tuple[PageRun, bool]]:
    """Split a stored run into runs to keep and runs to drop.

    Args:
        run: a stored run.
        ranges: sorted, disjoint address ranges where an absent page reads as zero.
        zero: shape (run.pages,), true where a page is all zero.

    Yields:
        Consecutive runs that together are `run`, each with True if it is dropped.
    """
    droppable = zero & _within(run, ranges)
    edges = np.flatnonzero(np.diff(droppable)) + 1
    begins = [0, *edges.tolist()]
    for begin, end in zip(begins, [*begins[1:], run.pages], strict=True):
        yield PageRun(run.address + begin * PAGE_BYTES, end - begin, run.flags), bool(droppable[begin])


def _compact_task(
    images: Path, task: str, memory: Path | None, plain: Ranges, check: Callable[[], object]
) -> Compaction:
    source = images / f"pagemap-{task}.img"
    pagemap = read_pagemap(source)
    pages = images / f"pages-{pagemap.pages_id}.img"
    stored = sum(run.pages for run in pagemap.runs if run.stored)
    size = pages.stat().st_size if pages.exists() else 0
    if size != stored * PAGE_BYTES:
        raise DriverError(
            Reason.MANIFEST_INVALID,
            f"{pages.name} has {size:,} bytes, its pagemap {stored:,} pages",
            "dump again",
        )
    if any(run.flags & IN_PARENT for run in pagemap.runs):
        return Compaction(size, size, stored, 0)  # an incremental dump: an absent page is read from the parent's images
    ranges = _EVERYWHERE if task.startswith(_SHARED) else private_anonymous_ranges(images / f"mm-{task}.img")
    new_pages, new_map = pages.with_suffix(".new"), source.with_suffix(".new")
    with ExitStack() as stack, _all_or_none(new_pages, new_map) as written:
        content = stack.enter_context(_mapped(pages)) if size else memoryview(b"")
        kept = _find_kept(pagemap, content, ranges, check)
        after = sum(piece.run.pages for piece in kept if piece.run.stored)
        offloaded: list[Piece] = []
        if memory is not None and not (memory / source.name).exists():
            kept, offloaded = split_offloaded(kept, plain)
            if offloaded:
                memory.mkdir(mode=0o700, exist_ok=True)
                written += [memory / pages.name, memory / source.name]
                _write_pages(offloaded, content, memory / pages.name, check)
                (memory / source.name).write_bytes(_as_pagemap(pagemap, offloaded))
        _write_pages(kept, content, new_pages, check)
        new_map.write_bytes(_as_pagemap(pagemap, kept))
    replace_keeping_owner(new_map, source)
    replace_keeping_owner(new_pages, pages)
    moved = sum(piece.run.pages for piece in offloaded)
    return Compaction(size, after * PAGE_BYTES, stored, stored - after, moved * PAGE_BYTES)


@contextmanager
def _all_or_none(*paths: Path) -> Iterator[list[Path]]:
    """Remove the written files if the block fails: they may fill the disk, and the old images stay valid."""
    written = list(paths)
    try:
        yield written
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content,
        memoryview(content) as view,
    ):
        yield view


def _find_kept(pagemap: Pagemap, content: memoryview, ranges: Ranges, check: Callable[[], object]) -> list[Piece]:
    """Return all pieces but zero pages in the ranges, adjacent ones joined; runs that are not stored stay unchanged."""
    kept: list[Piece] = []
    at = 0
    for run in pagemap.runs:
        if not run.stored:
            kept.append(Piece(run, at))
            continue
        for part in _parts(run):
            check()
            size = part.pages * PAGE_BYTES
            words = np.frombuffer(content, dtype=np.uint64, count=size // 8, offset=at)
            zero = np.asarray(words.reshape(part.pages, -1).any(axis=1) == 0)
            del words  # a view of the file would prevent unmapping it
            for found, dropped in split(part, ranges, zero):
                if not dropped:
                    append(kept, Piece(found, at + found.address - part.address))
            at += size
    return kept


def _write_pages(pieces: list[Piece], content: memoryview, target: Path, check: Callable[[], object]) -> None:
    with target.open("wb") as out:
        for piece in pieces:
            if not piece.run.stored:
                continue
            for part in _parts(piece.run):
                check()
                begin = piece.at + part.address - piece.run.address
                out.write(content[begin : begin + part.pages * PAGE_BYTES])


def _as_pagemap(pagemap: Pagemap, pieces: list[Piece]) -> bytes:
    return write_pagemap(Pagemap(pagemap.pages_id, pagemap.head, tuple(piece.run for piece in pieces)))


def _parts(run: PageRun) -> Iterator[PageRun]:
    for begin in range(0, run.pages, _CHUNK_PAGES):
        yield PageRun(run.address + begin * PAGE_BYTES, min(_CHUNK_PAGES, run.pages - begin), run.flags)


def _within(run: PageRun, ranges: Ranges) -> np.ndarray:
    """Return an array of shape (run.pages,): true for pages within one of the ranges."""
    inside = np.zeros(run.pages, dtype=bool)
    at = max(bisect_right(ranges, (run.address, 1 << 64)) - 1, 0)
    while at < len(ranges) and ranges[at][0] < run.end:
        first = max((ranges[at][0] - run.address) // PAGE_BYTES, 0)
        last = max((ranges[at][1] - run.address) // PAGE_BYTES, 0)
        inside[first:last] = True
        at += 1
    return inside
