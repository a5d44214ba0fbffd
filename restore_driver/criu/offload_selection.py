"""Which memory a restore fills in by itself, beside CRIU: the large pieces of ordinary private memory.

CRIU restores a task's pages in one thread, after everything else, and nine tenths of its time are these: a fault, a
zeroed page and a copy, one after the other (docs/restore.md). So large pieces leave its images for a directory of their
own, in the same format. CRIU restores the tree without them and leaves it stopped; `fill.py` writes them with all
cores; then the tree goes on.

Left to CRIU is what it or the kernel touches between: pages where the kernel writes a thread's CPU (rseq(2)), read-only
memory, stacks, files, everything that is shared. So is an area that two tasks have from and to the same addresses: one
forked the other, CRIU keeps the pages that they still share (in such areas alone), and we would make two of each.

A tree of which a task was stopped by itself, or that shares its caller's session, is left to CRIU whole: nobody could
tell, after, whom to wake, or whether the kernel would (a stopped process group that loses its last outside parent is
sent SIGHUP and SIGCONT: POSIX's orphaned process groups).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from restore_driver.criu.images import PAGE_BYTES, PageRun, private_anonymous_areas, read_core

LEAST_PAGES = 16
"""Shorter runs stay: of an engine's memory they are 4%, and nine of ten runs."""
LEAST_BYTES = 8 << 20
"""A task with less to set apart is left to CRIU: it takes milliseconds."""

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint address ranges [start, end)."""


@dataclass(frozen=True)
class Piece:
    """A run, and where its pages begin in the pages file, in bytes."""

    run: PageRun
    at: int


def plain_memory(images: Path, tasks: Sequence[str]) -> dict[str, Ranges]:
    """By task, what may be set apart; nothing of a tree that must not be stopped.

    Raises:
        DriverError: MANIFEST_INVALID naming the image that is none of CRIU's.
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


def set_apart(pieces: Sequence[Piece], plain: Ranges) -> tuple[list[Piece], list[Piece]]:
    """What stays with CRIU and what is set apart, each in the pages' order; together they are the pieces."""
    stay: list[Piece] = []
    apart: list[Piece] = []
    for piece in pieces:
        for part, inside in _cut(piece, plain):
            append(apart if inside and part.run.pages >= LEAST_PAGES and part.run.stored else stay, part)
    if sum(part.run.pages for part in apart) * PAGE_BYTES < LEAST_BYTES:
        return list(pieces), []
    return stay, apart


def append(pieces: list[Piece], piece: Piece) -> None:
    """Joins a piece to the last one where they touch; what touches in memory does so in the file."""
    if pieces and pieces[-1].run.flags == piece.run.flags and pieces[-1].run.end == piece.run.address:
        last = pieces[-1]
        pieces[-1] = Piece(PageRun(last.run.address, last.run.pages + piece.run.pages, last.run.flags), last.at)
    else:
        pieces.append(piece)


def _cut(piece: Piece, ranges: Ranges) -> Iterator[tuple[Piece, bool]]:
    """Parts that follow one another and together are the piece, each with whether it lies in a range."""
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
    """Those that touch or overlap become one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def _without(ranges: Ranges, holes: Ranges) -> Iterator[tuple[int, int]]:
    """What the holes leave of the ranges."""
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
