"""Write offloaded memory (`offload_selection.py`) into a restored, stopped process tree, on all cores at once.

process_vm_writev(2) faults the pages in and copies without running the task; with transparent huge pages `always` a
fault maps 2 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from restore_driver.criu.images import PAGE_BYTES, PageRun, read_pagemap
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.process_vm import mapped_file, write_memory

_BLOCK_BYTES = 4 << 20
"""Largest write of one call, aligned to multiples of it: no two threads fault the same huge page."""
_MOST_PIECES = 256
"""In one call; the kernel takes `process_vm.MOST_PIECES`."""
_MOST_THREADS = 16


@dataclass(frozen=True)
class Filled:
    """Statistics of one fill."""

    bytes: int
    pieces: int
    threads: int


@dataclass(frozen=True)
class _Write:
    """One call: pieces of a task's memory, each (address in the task, address here, bytes)."""

    pid: int
    start_ticks: int
    pieces: tuple[tuple[int, int, int], ...]


def fill(
    memory: Path, tasks: Mapping[int, tuple[int, int]], deadline: Deadline, *, threads: int | None = None
) -> Filled:
    """Write every piece of a directory into the tasks that it belongs to; they must be stopped.

    The threads run on the cores of the tasks, so that the pages are allocated near those cores.

    Args:
        memory: directory of pagemaps and pages, as `compact` writes them.
        tasks: PIDs in the dump -> PIDs and start times (`proc.identity`) here.
        deadline: checked before each call.
        threads: None for one a core of the tasks', 16 at most.

    Raises:
        DriverError: MANIFEST_INVALID for an invalid pagemap, or a pages file of another size; CRIU_RESTORE_FAILED for a
            task that cannot be written; DEADLINE_EXCEEDED.
        OSError: a pages file cannot be mapped.
    """
    with ExitStack() as stack:
        writes: list[_Write] = []
        for pagemap in sorted(memory.glob("pagemap-[0-9]*.img")):
            task = int(pagemap.stem.removeprefix("pagemap-"))
            if task not in tasks:
                raise DriverError(Reason.CRIU_RESTORE_FAILED, f"process {task} has ended")
            writes += _plan(pagemap, tasks[task], stack)

        def write(each: _Write) -> None:
            deadline.left_s()
            _write(each)

        cores = _cores_of(pid for pid, _ in tasks.values())
        count = min(threads or len(cores), _MOST_THREADS, max(len(writes), 1))
        with ThreadPoolExecutor(count, "fill", initializer=_run_on, initargs=(cores,)) as pool:
            try:
                list(pool.map(write, writes))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    sizes = [size for each in writes for _, _, size in each.pieces]
    return Filled(sum(sizes), len(sizes), count)


def _plan(pagemap: Path, task: tuple[int, int], stack: ExitStack) -> Iterator[_Write]:
    found = read_pagemap(pagemap)
    pages = pagemap.with_name(f"pages-{found.pages_id}.img")
    stored = sum(run.pages for run in found.runs) * PAGE_BYTES
    size = pages.stat().st_size if pages.exists() else 0
    if size != stored or not size:
        raise DriverError(
            Reason.MANIFEST_INVALID, f"{pages.name} has {size:,} bytes, its pagemap {stored:,}", "stage it again"
        )
    begin = stack.enter_context(mapped_file(pages, size))
    pieces, together = list[tuple[int, int, int]](), 0
    for address, at, length in _blocks(found.runs):
        if pieces and (together + length > _BLOCK_BYTES or len(pieces) == _MOST_PIECES):
            yield _Write(*task, tuple(pieces))
            pieces, together = [], 0
        pieces.append((address, begin + at, length))
        together += length
    if pieces:
        yield _Write(*task, tuple(pieces))


def _blocks(runs: tuple[PageRun, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield the runs cut at multiples of a block: address, offset in the pages file, bytes."""
    at = 0
    for run in runs:
        address = run.address
        while address < run.end:
            end = min(run.end, (address // _BLOCK_BYTES + 1) * _BLOCK_BYTES)
            yield address, at, end - address
            at += end - address
            address = end


def _cores_of(pids: Iterable[int]) -> frozenset[int]:
    """Return the cores on which any of the processes may run; those of this process if all have ended."""
    cores: set[int] = set()
    for pid in pids:
        with suppress(ProcessLookupError):
            cores |= os.sched_getaffinity(pid)
    return frozenset(cores or os.sched_getaffinity(0))


def _run_on(cores: frozenset[int]) -> None:
    with suppress(OSError):  # this process may use none of them
        os.sched_setaffinity(0, cores)  # of this thread


def _write(each: _Write) -> None:
    if not proc.is_same(each.pid, each.start_ticks):  # its PID may have been reused
        raise DriverError(Reason.CRIU_RESTORE_FAILED, f"process {each.pid} has ended")
    wanted = sum(size for _, _, size in each.pieces)
    try:
        written = write_memory(each.pid, each.pieces)
    except OSError as error:
        raise _not_written(each, error.strerror or str(error)) from error
    if written != wanted:
        raise _not_written(each, f"{written:,} of {wanted:,} bytes were written")


def _not_written(each: _Write, why: str) -> DriverError:
    return DriverError(
        Reason.CRIU_RESTORE_FAILED, f"process {each.pid}'s memory at {each.pieces[0][0]:#x} cannot be written: {why}"
    )
