"""Select the memory that a restore fills in by itself: the large pieces of ordinary private memory.

CRIU restores a task's pages in one thread, after everything else, and that is nine tenths of its time: a fault, a
zeroed page and a copy, one after the other (docs/restore.md). So large pieces are offloaded from its images into a
directory of their own, in the same format. CRIU restores the tree without them and leaves it stopped; `fill.py` writes
them with all cores; then the tree is resumed.

CRIU keeps what it or the kernel touches in between: pages where the kernel writes a thread's CPU (rseq(2)), read-only
memory, stacks, files, everything that is shared. It also keeps an area that two tasks have at the same addresses: one
forked the other, CRIU keeps the pages that they still share (in such areas alone), and filling would duplicate each.

A tree with a task that had been stopped by a signal, or that shares its caller's session, is not offloaded: after the
restore it would be unknown which tasks to resume, and the kernel may resume them too early (a stopped process group
that loses its last outside parent is sent SIGHUP and SIGCONT: POSIX's orphaned process groups).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from restore_driver.criu.images import PAGE_BYTES, PageRun, private_anonymous_areas, read_core

LEAST_PAGES = 16
"""Shorter runs are not offloaded: they are 4% of an engine's memory, and nine of ten runs."""
LEAST_BYTES = 8 << 20
"""Less of a task than this is not offloaded: CRIU restores it in milliseconds."""

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint address ranges [start, end)."""


@dataclass(frozen=True)
class Piece:
    """A run, and the offset of its pages in the pages file, in bytes."""

    run: PageRun
    at: int


def plain_memory(images: Path, tasks: Sequence[str]) -> dict[str, Ranges]:
    """Return the ranges of each task that may be offloaded; none for a tree with a stopped task.

    Raises:
        DriverError: MANIFEST_INVALID naming the file that is not an image of CRIU's.
    """
    cores = [read_core(path) for path in sorted(images.glob("core-[0-9]*.img"))]
    if not cores or any(core.stopped for core in cores):
        return {}
    written = tuple(sorted({core.rseq_address // PAGE_BYTES for core in cores if core.rseq_address is not None}))
    kernels = [(page * PAGE_BYTES, (page + 1) * PAGE_BYTES) for page in written]
    areas = {task: private_anonymous_areas(images / f"mm-{task}.img") for task in tasks}
    spans = Counter(area.span for found in areas.values() for area in found)
    forked = [span for span, count in spans.items() if count > 1]
    holes = _merged([*kernels, *forked])
    plain = {task: _merged([area.span for area in found if area.plain]) for task, found in areas.items()}
    return {task: tuple(_without(ranges, holes)) for task, ranges in plain.items()}


def split_offloaded(pieces: Sequence[Piece], plain: Ranges) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces that stay with CRIU and the offloaded ones, each in the pages' order."""
    stay: list[Piece] = []
    offloaded: list[Piece] = []
    for piece in pieces:
        for part, inside in _cut(piece, plain):
            append(offloaded if inside and part.run.pages >= LEAST_PAGES and part.run.stored else stay, part)
    if sum(part.run.pages for part in offloaded) * PAGE_BYTES < LEAST_BYTES:
        return list(pieces), []
    return stay, offloaded


def append(pieces: list[Piece], piece: Piece) -> None:
    """Append a piece, joined to the last one if adjacent; adjacent pages in memory are adjacent in the file."""
    if pieces and pieces[-1].run.flags == piece.run.flags and pieces[-1].run.end == piece.run.address:
        last = pieces[-1]
        pieces[-1] = Piece(PageRun(last.run.address, last.run.pages + piece.run.pages, last.run.flags), last.at)
    else:
        pieces.append(piece)


def _cut(piece: Piece, ranges: Ranges) -> Iterator[tuple[Piece, bool]]:
    """Yield consecutive parts of a piece, each with True if it lies within a range."""
    run, at = piece.run, piece.run.address

    def part(end: int) -> Piece:
        return Piece(PageRun(at, (end - at) // PAGE_BYTES, run.flags), piece.at + at - run.address)

    for start, end in ranges[max(bisect_right(ranges, (at, at)) - 1, 0) :]:
        if end <= at:
            continue
        if start >= run.end:
            break
        if start > at:
            yield part(start), False
            at = start
        yield part(min(end, run.end)), True
        at = min(end, run.end)
    if at < run.end:
        yield part(run.end), False


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    """Return the ranges sorted, adjacent and overlapping ones merged."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def _without(ranges: Ranges, holes: Ranges) -> Iterator[tuple[int, int]]:
    """Yield the parts of the ranges that are outside the holes."""
    for start, end in ranges:
        at = start
        for low, high in holes[max(bisect_right(holes, (start, start)) - 1, 0) :]:
            if low >= end:
                break
            if high > at:
                if at < low:
                    yield at, low
                at = high
        if at < end:
            yield at, end
