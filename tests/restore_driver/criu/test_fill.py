"""Offloaded memory is written into a stopped process byte for byte, or the error names what failed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restore_driver.criu import fill as filling
from restore_driver.criu.fill import fill
from restore_driver.criu.images import PAGE_BYTES, PRESENT, PageRun
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from tests.restore_driver.criu.wire import pagemap

PAGES = 4096
TARGET = f"""
import ctypes, hashlib, mmap, sys
memory = mmap.mmap(-1, {PAGES * PAGE_BYTES}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    print(hashlib.sha256(memory).hexdigest(), flush=True)
"""
TASK = 41


def later(limit_s: float = 60.0) -> Deadline:
    return Deadline.after("the fill", limit_s)


@dataclass
class Target:
    """A process with 16 MiB of memory at `base`."""

    child: subprocess.Popen[str]
    base: int

    @property
    def identity(self) -> tuple[int, int]:
        return proc.identity(self.child.pid)

    def digest(self) -> str:
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


@contextmanager
def running() -> Iterator[Target]:
    argv = [sys.executable, "-c", TARGET]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield Target(child, int(child.stdout.readline()))
        child.kill()


@pytest.fixture
def target() -> Iterator[Target]:
    with running() as made:
        yield made


def write(directory: Path, base: int, runs: list[tuple[int, int]]) -> bytes:
    """Write a directory as `compact` does, of (first page, pages), and return the expected memory."""
    expected, pages, found = bytearray(PAGES * PAGE_BYTES), [], []
    for first, count in runs:
        content = b"".join(hashlib.sha256(b"%d" % page).digest() * 128 for page in range(first, first + count))
        expected[first * PAGE_BYTES : (first + count) * PAGE_BYTES] = content
        pages.append(content)
        found.append(PageRun(base + first * PAGE_BYTES, count, PRESENT))
    directory.mkdir(exist_ok=True)
    (directory / f"pagemap-{TASK}.img").write_bytes(pagemap(3, found))
    (directory / "pages-3.img").write_bytes(b"".join(pages))
    return bytes(expected)


RUNS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 700)), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=RUNS, block_pages=st.integers(1, 900), most=st.integers(1, 4), threads=st.integers(1, 4))
def test_every_byte_is_written_to_its_address(
    drawn: list[tuple[int, int]], block_pages: int, most: int, threads: int, tmp_path: Path
) -> None:
    runs, page = [], 0
    for gap, pages in drawn:
        if page + gap + pages < PAGES:
            runs.append((page + gap, pages))
            page += gap + pages
    with running() as target:
        expected = write(tmp_path / "memory", target.base, runs)
        os.kill(target.child.pid, signal.SIGSTOP)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filling, "_BLOCK_BYTES", block_pages * PAGE_BYTES)
            patch.setattr(filling, "_MOST_PIECES", most)
            done = fill(tmp_path / "memory", {TASK: target.identity}, later(), threads=threads)
        os.kill(target.child.pid, signal.SIGCONT)
        digest = target.digest()

    assert digest == hashlib.sha256(expected).hexdigest()
    assert done.bytes == sum(pages for _, pages in runs) * PAGE_BYTES
    assert done.pieces >= len(runs) and 1 <= done.threads <= threads


def refusal(directory: Path, task: tuple[int, int], deadline: Deadline | None = None) -> DriverError:
    with pytest.raises(DriverError) as caught:
        fill(directory, {TASK: task}, deadline or later())
    return caught.value


def test_unmapped_memory_is_reported_with_its_address(target: Target, tmp_path: Path) -> None:
    write(tmp_path / "memory", target.base + (1 << 40), [(0, 4)])
    error = refusal(tmp_path / "memory", target.identity)

    assert error.reason is Reason.CRIU_RESTORE_FAILED
    assert f"{target.base + (1 << 40):#x} cannot be written: Bad address" in error.detail


def test_a_partial_write_is_reported(target: Target, tmp_path: Path) -> None:
    """The end of the write is not mapped."""
    hole = 1 << 46
    write(tmp_path / "memory", target.base, [(0, 2)])
    found = [PageRun(target.base, 1, PRESENT), PageRun(hole, 1, PRESENT)]
    (tmp_path / "memory" / f"pagemap-{TASK}.img").write_bytes(pagemap(3, found))

    assert refusal(tmp_path / "memory", target.identity).detail.endswith("4,096 of 8,192 bytes were written")


def test_an_ended_process_is_reported(target: Target, tmp_path: Path) -> None:
    write(tmp_path / "memory", target.base, [(0, 4)])
    identity = target.identity
    target.child.kill()
    target.child.wait()

    assert "has ended" in refusal(tmp_path / "memory", identity).detail


def test_a_process_with_a_reused_pid_is_not_written(target: Target, tmp_path: Path) -> None:
    before = target.digest()
    write(tmp_path / "memory", target.base, [(0, 4)])
    pid, ticks = target.identity

    assert refusal(tmp_path / "memory", (pid, ticks - 1)).reason is Reason.CRIU_RESTORE_FAILED
    assert target.digest() == before


def test_the_threads_run_on_the_cores_of_the_task(target: Target, tmp_path: Path) -> None:
    """Pages are allocated near those cores; the affinity of the caller is unchanged."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(target.child.pid, {min(before)})
    write(tmp_path / "memory", target.base, [(0, 2048)])
    done = fill(tmp_path / "memory", {TASK: target.identity}, later())

    assert (done.threads, os.sched_getaffinity(0)) == (1, before)


def test_a_task_that_was_not_restored_is_named(tmp_path: Path) -> None:
    write(tmp_path / "memory", 0, [(0, 4)])
    with pytest.raises(DriverError, match=f"process {TASK} has ended"):
        fill(tmp_path / "memory", {}, later())


@pytest.mark.parametrize("size", [0, 1, 5 * PAGE_BYTES])
def test_a_pages_file_of_another_size_is_refused_by_name(size: int, target: Target, tmp_path: Path) -> None:
    """A mapping past a file's end would kill the driver by SIGBUS."""
    before = target.digest()
    write(tmp_path / "memory", target.base, [(0, 4)])
    os.truncate(tmp_path / "memory" / "pages-3.img", size)
    error = refusal(tmp_path / "memory", target.identity)

    assert (error.reason, "pages-3.img" in error.detail) == (Reason.MANIFEST_INVALID, True)
    assert target.digest() == before


def test_a_missed_deadline_stops_the_fill(target: Target, tmp_path: Path) -> None:
    write(tmp_path / "memory", target.base, [(0, 4)])

    assert refusal(tmp_path / "memory", target.identity, later(0.0)).reason is Reason.DEADLINE_EXCEEDED
