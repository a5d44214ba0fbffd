"""Drops zero pages from a dump: half of an engine's image is memory that was allocated and never written.

Safe in private anonymous memory alone: a page that the pagemap does not name is not restored there, and reads as zero.
In a file's mapping it would read as the file, in shared memory it may be another's, so those are left as they are.
Children that share pages with their parent by copy-on-write are safe, too: CRIU drops an inherited page that the
child's pagemap does not name (`restore_priv_vma_content`).

New files are written beside the old ones, pages first, and each pair is renamed in; if that is cut off in between, the
artifact was not published yet and is dropped with its draft.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from restore_driver.criu.images import (
    IN_PARENT,
    PAGE_BYTES,
    Pagemap,
    Run,
    private_anonymous_ranges,
    read_pagemap,
    write_pagemap,
)
from restore_driver.errors import DriverError, Reason

_CHUNK_PAGES = 4096
"""Pages looked at together: 16 MiB stay in a core's cache and keep numpy's overhead small."""


@dataclass(frozen=True)
class Compaction:
    """What compaction did to a dump."""

    before_bytes: int
    after_bytes: int
    pages: int
    zero_pages: int


def compact(images: Path, *, workers: int | None = None, look: Callable[[], object] = lambda: None) -> Compaction:
    """Rewrites the page files of all tasks of a dump; repeating it changes nothing.

    `look` is called every few megabytes; what it raises (a deadline's miss) ends the work.

    Raises:
        DriverError: MANIFEST_INVALID naming the file when an image is none of CRIU's or is cut off.
    """
    tasks = sorted(path.stem.removeprefix("pagemap-") for path in images.glob("pagemap-[0-9]*.img"))
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        done = list(pool.map(lambda task: _compact_task(images, task, look), tasks))
    return Compaction(
        before_bytes=sum(each.before_bytes for each in done),
        after_bytes=sum(each.after_bytes for each in done),
        pages=sum(each.pages for each in done),
        zero_pages=sum(each.zero_pages for each in done),
    )


def split(run: Run, ranges: tuple[tuple[int, int], ...], zero: np.ndarray) -> Iterator[tuple[Run, bool]]:
    """Cuts a stored run into runs to keep and runs to drop.

    Args:
        run: a stored run.
        ranges: sorted, disjoint address ranges where an absent page reads as zero.
        zero: shape (run.pages,), true where a page is all zero.

    Yields:
        Runs that follow one another and together are `run`, each with whether it is dropped.
    """
    droppable = zero & _within(run, ranges)
    edges = np.flatnonzero(np.diff(droppable)) + 1
    begins = [0, *edges.tolist()]
    for begin, end in zip(begins, [*begins[1:], run.pages], strict=True):
        yield Run(run.address + begin * PAGE_BYTES, end - begin, run.flags), bool(droppable[begin])


def _compact_task(images: Path, task: str, look: Callable[[], object]) -> Compaction:
    source = images / f"pagemap-{task}.img"
    pagemap = read_pagemap(source)
    pages = images / f"pages-{pagemap.pages_id}.img"
    stored = sum(run.pages for run in pagemap.runs if run.stored)
    size = pages.stat().st_size if pages.exists() else 0
    if size != stored * PAGE_BYTES:
        raise DriverError(
            Reason.MANIFEST_INVALID,
            f"{pages.name} holds {size:,} bytes, its pagemap says {stored:,} pages",
            "dump again",
        )
    if any(run.flags & IN_PARENT for run in pagemap.runs):
        return Compaction(size, size, stored, 0)  # an incremental dump: an absent page would be the parent's
    ranges = private_anonymous_ranges(images / f"mm-{task}.img")
    new_pages, new_map = pages.with_suffix(".new"), source.with_suffix(".new")
    kept = _copy_kept(pagemap, pages, new_pages, ranges, look)
    new_map.write_bytes(write_pagemap(Pagemap(pagemap.pages_id, pagemap.head, tuple(kept))))
    _take_over(source, new_map)
    _take_over(pages, new_pages)
    after = sum(run.pages for run in kept if run.stored)
    return Compaction(size, after * PAGE_BYTES, stored, stored - after)


def _copy_kept(
    pagemap: Pagemap, pages: Path, target: Path, ranges: tuple[tuple[int, int], ...], look: Callable[[], object]
) -> list[Run]:
    kept: list[Run] = []
    with pages.open("rb") as source, target.open("wb") as out:
        content = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) if pages.stat().st_size else None
        at = 0
        for run in pagemap.runs:
            if not run.stored:
                kept.append(run)
                continue
            for piece in _pieces(run):
                look()
                assert content is not None
                size = piece.pages * PAGE_BYTES
                words = np.frombuffer(content, dtype=np.uint64, count=size // 8, offset=at)
                zero = np.asarray(words.reshape(piece.pages, -1).any(axis=1) == 0)
                for part, dropped in split(piece, ranges, zero):
                    if not dropped:
                        begin = at + part.address - piece.address
                        out.write(memoryview(content)[begin : begin + part.pages * PAGE_BYTES])
                        _append(kept, part)
                at += size
                del words
    return kept


def _pieces(run: Run) -> Iterator[Run]:
    for begin in range(0, run.pages, _CHUNK_PAGES):
        yield Run(run.address + begin * PAGE_BYTES, min(_CHUNK_PAGES, run.pages - begin), run.flags)


def _append(runs: list[Run], run: Run) -> None:
    """Joins a run to the last one where they touch."""
    if runs and runs[-1].flags == run.flags and runs[-1].address + runs[-1].pages * PAGE_BYTES == run.address:
        runs[-1] = Run(runs[-1].address, runs[-1].pages + run.pages, run.flags)
    else:
        runs.append(run)


def _within(run: Run, ranges: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Shape (run.pages,): true for pages in one of the ranges."""
    inside = np.zeros(run.pages, dtype=bool)
    end = run.address + run.pages * PAGE_BYTES
    at = max(bisect_right(ranges, (run.address, 1 << 64)) - 1, 0)
    while at < len(ranges) and ranges[at][0] < end:
        first = max((ranges[at][0] - run.address) // PAGE_BYTES, 0)
        last = max((ranges[at][1] - run.address) // PAGE_BYTES, 0)
        inside[first:last] = True
        at += 1
    return inside


def _take_over(old: Path, new: Path) -> None:
    """The new file gets the old one's owner, mode and name."""
    status = old.stat()
    os.chown(new, status.st_uid, status.st_gid)
    new.chmod(status.st_mode & 0o777)
    os.rename(new, old)
