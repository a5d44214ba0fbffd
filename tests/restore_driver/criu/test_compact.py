"""Compaction drops zero pages only: the memory after a restore is the same."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_driver.criu import compact as compacting
from restore_driver.criu import offload_selection
from restore_driver.criu.compact import Compaction, compact, split
from restore_driver.criu.images import IN_PARENT, LAZY, PAGE_BYTES, PRESENT, PageRun, read_pagemap
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.criu.wire import core, mm, pagemap

BASE = 0x7F0000000000
KINDS = {"private": (0x22, 1 | 1 << 9), "stack": (0x122, 3 | 1 << 9), "file": (0x02, 1 | 1 << 6)}
KINDS |= {"shared": (0x21, 1 | 1 << 8), "shared file": (0x01, 1 | 1 << 7)}
CONTENTS = {"z": bytes(PAGE_BYTES), "d": b"data" * 1024, "l": bytes(PAGE_BYTES - 1) + b"\1", "f": b"\1" + bytes(4095)}
"""Zeros, data, and two pages that are almost zero; a page marked `.` is not stored."""
Memory = dict[int, str | bytes]


@dataclass(frozen=True)
class Area:
    """One mapping: its kind and, a letter for each page, its stored content."""

    kind: str
    pages: str


@dataclass(frozen=True)
class Task:
    """A process's mappings, with gaps of some pages after each, and the pages where CRIU ended its runs."""

    areas: list[tuple[Area, int]]
    cuts: frozenset[int]
    lazy: bool
    rseq_page: int = 0
    """The page of its rseq area, which the kernel writes."""

    def write(self, images: Path, pid: int) -> None:
        """Write its images; the pages file has another number than the task."""
        vmas, stored, at = [], list[tuple[int, str, int]](), BASE
        for area, gap in self.areas:
            end = at + len(area.pages) * PAGE_BYTES
            vmas.append((at, end, *KINDS[area.kind]))
            flags = PRESENT | (LAZY if self.lazy and area.kind in ("private", "stack") else 0)
            stored += [(at + n * PAGE_BYTES, what, flags) for n, what in enumerate(area.pages) if what != "."]
            at = end + gap * PAGE_BYTES
        runs: list[PageRun] = []
        for number, (address, _, flags) in enumerate(stored):
            last = runs[-1] if runs else PageRun(0, 0, 0)
            touches = (last.address + last.pages * PAGE_BYTES, last.flags) == (address, flags)
            if touches and number not in self.cuts:
                runs[-1] = PageRun(last.address, last.pages + 1, flags)
            else:
                runs.append(PageRun(address, 1, flags))
        (images / f"pagemap-{pid}.img").write_bytes(pagemap(pid + 100, runs, (30, b"a field of tomorrow's")))
        (images / f"pages-{pid + 100}.img").write_bytes(b"".join(CONTENTS[what] for _, what, _ in stored))
        (images / f"mm-{pid}.img").write_bytes(mm(vmas))
        (images / f"core-{pid}.img").write_bytes(core(rseq=BASE + self.rseq_page * PAGE_BYTES + 160))

    def restored(self, images: Path, pid: int, offloaded: Path | None = None) -> Memory:
        """Return every page after a restore: stored content, zeros, or the file's content."""
        stored = stored_pages(images, pid)
        if offloaded is not None and (offloaded / f"pagemap-{pid}.img").exists():
            filled_in = stored_pages(offloaded, pid)
            assert not set(filled_in) & {*stored, BASE + self.rseq_page * PAGE_BYTES}
            stored |= filled_in
        memory: Memory = {}
        at = BASE
        for area, gap in self.areas:
            absent = bytes(PAGE_BYTES) if area.kind in ("private", "stack") else f"as the {area.kind} has it"
            for address in range(at, at + len(area.pages) * PAGE_BYTES, PAGE_BYTES):
                memory[address] = stored.pop(address, absent)
            at += (len(area.pages) + gap) * PAGE_BYTES
        assert not stored, "pages outside of every mapping"
        return memory

    def droppable(self) -> int:
        return sum(area.pages.count("z") for area, _ in self.areas if area.kind in ("private", "stack"))

    def count(self) -> int:
        return sum(len(area.pages) - area.pages.count(".") for area, _ in self.areas)


def stored_pages(images: Path, pid: int | str) -> dict[int, bytes]:
    found = read_pagemap(images / f"pagemap-{pid}.img")
    content = (images / f"pages-{found.pages_id}.img").read_bytes()
    addresses = [run.address + n * PAGE_BYTES for run in found.runs if run.stored for n in range(run.pages)]
    assert len(content) == len(addresses) * PAGE_BYTES
    return {address: content[n * PAGE_BYTES : (n + 1) * PAGE_BYTES] for n, address in enumerate(addresses)}


STRETCH = st.tuples(st.sampled_from("..zzzdlf"), st.integers(1, 5)).map(lambda drawn: drawn[0] * drawn[1])
AREAS = st.builds(Area, st.sampled_from(sorted(KINDS)), st.lists(STRETCH, min_size=1, max_size=5).map("".join))
TASKS = st.builds(
    Task,
    areas=st.lists(st.tuples(AREAS, st.integers(0, 2)), max_size=5),
    cuts=st.frozensets(st.integers(0, 40), max_size=6),
    lazy=st.booleans(),
    rseq_page=st.integers(0, 20),
)


def everything(images: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mode) for path in images.iterdir() if path.is_file()}


@settings(deadline=None)
@given(tasks=st.lists(TASKS, min_size=1, max_size=3), chunk_pages=st.integers(1, 12), least_pages=st.integers(1, 6))
def test_restored_memory_is_unchanged_and_only_zero_pages_are_dropped(
    tasks: list[Task], chunk_pages: int, least_pages: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random tasks and sizes, some memory offloaded: equal memory, exact numbers, unchanged file and shared pages."""
    images = tmp_path_factory.mktemp("images")
    offloaded = images / "offloaded"
    for pid, task in enumerate(tasks, 1):
        task.write(images, pid)
    before = everything(images)
    memory = [task.restored(images, pid) for pid, task in enumerate(tasks, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacting, "_CHUNK_PAGES", chunk_pages)
        patch.setattr(offload_selection, "LEAST_PAGES", least_pages)
        patch.setattr(offload_selection, "LEAST_BYTES", 2 * PAGE_BYTES)
        done = compact(images, offloaded, workers=2)
        after = everything(images)
        again = compact(images, offloaded, workers=2)

    pages, zeros = sum(task.count() for task in tasks), sum(task.droppable() for task in tasks)
    moved = [len(stored_pages(offloaded, pid)) for pid in range(1, 4) if (offloaded / f"pagemap-{pid}.img").exists()]
    assert [task.restored(images, pid, offloaded) for pid, task in enumerate(tasks, 1)] == memory
    assert done == Compaction(pages * PAGE_BYTES, (pages - zeros) * PAGE_BYTES, pages, zeros, sum(moved) * PAGE_BYTES)
    assert all(each >= 2 for each in moved)
    assert again.zero_pages == again.saved_bytes == again.offloaded_bytes == 0
    assert everything(images) == after
    assert {name: mode for name, (_, mode) in after.items()} == {name: mode for name, (_, mode) in before.items()}
    assert all(after[name] == before[name] for name in before if name.startswith("mm-"))
    heads = [read_pagemap(images / f"pagemap-{pid}.img").head for pid in range(1, len(tasks) + 1)]
    assert all(b"a field of tomorrow's" in head for head in heads)


@given(
    pages=st.integers(1, 40),
    zeros=st.sets(st.integers(0, 39)),
    ranges=st.lists(st.tuples(st.integers(-5, 45), st.integers(1, 9)), max_size=5),
)
def test_the_parts_of_a_split_run_are_the_run(pages: int, zeros: set[int], ranges: list[tuple[int, int]]) -> None:
    """Dropped is each zero page within a range and no other, and adjacent parts differ."""
    run, disjoint, end = PageRun(BASE, pages, PRESENT), [], -10
    for begin, size in sorted(ranges):
        if begin > end:
            disjoint.append((BASE + begin * PAGE_BYTES, BASE + (begin + size) * PAGE_BYTES))
            end = begin + size
    zero = np.array([page in zeros for page in range(pages)])
    pieces = list(split(run, tuple(disjoint), zero))
    at = [BASE + page * PAGE_BYTES for page in range(pages)]
    wanted = [bool(zero[n]) and any(low <= at[n] < high for low, high in disjoint) for n in range(pages)]

    assert [piece.address + n * PAGE_BYTES for piece, _ in pieces for n in range(piece.pages)] == at
    assert [dropped for piece, dropped in pieces for _ in range(piece.pages)] == wanted
    assert all(one[1] != other[1] for one, other in pairwise(pieces))
    assert {piece.flags for piece, _ in pieces} == {PRESENT}


TASK = Task([(Area("private", "zzdz"), 1), (Area("file", "zd"), 0)], frozenset(), lazy=False, rseq_page=9)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    TASK.write(tmp_path, 1)
    return tmp_path


def test_an_incremental_dump_is_not_changed(images: Path) -> None:
    """An absent page is read from the parent's images, it is not zero."""
    (images / "pagemap-1.img").write_bytes(
        pagemap(101, [PageRun(BASE, 6, PRESENT), PageRun(BASE + (1 << 20), 1, IN_PARENT)])
    )
    before = everything(images)

    assert compact(images).zero_pages == 0
    assert everything(images) == before


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_owner_and_mode_are_kept(mode: int, images: Path) -> None:
    """CRIU may have run as another user."""
    for path in images.iterdir():
        path.chmod(mode)
    (images / "pages-101.img").chmod(0o640)
    compact(images)

    assert (images / "pages-101.img").stat().st_mode & 0o777 == 0o640
    assert (images / "pagemap-1.img").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["pagemap-1.img", "pages-101.img", "mm-1.img"])
@pytest.mark.parametrize("lost_bytes", [1, 7, 4096])
def test_a_truncated_image_is_refused_by_name_and_nothing_is_changed(name: str, lost_bytes: int, images: Path) -> None:
    content = (images / name).read_bytes()
    (images / name).write_bytes(content[: max(len(content) - lost_bytes, 0)])
    before = everything(images)
    with pytest.raises(DriverError) as caught:
        compact(images)

    assert (caught.value.reason, name in caught.value.detail) == (Reason.MANIFEST_INVALID, True), caught.value
    assert everything(images) == before


@pytest.mark.parametrize("name", ["pages-101.img", "mm-1.img"])
def test_a_missing_image_is_refused_by_name(name: str, images: Path) -> None:
    (images / name).unlink()
    with pytest.raises(DriverError) as caught:
        compact(images)

    assert (caught.value.reason, name in caught.value.detail) == (Reason.MANIFEST_INVALID, True)


@given(calls=st.integers(1, 6))
def test_a_missed_deadline_leaves_the_images_unchanged(calls: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It may be missed at any check; partial files are removed, since they may fill the disk."""
    images = tmp_path_factory.mktemp("images")
    TASK.write(images, 1)
    before, left = everything(images), [calls]

    def check() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise DriverError(Reason.DEADLINE_EXCEEDED, "too late")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacting, "_CHUNK_PAGES", 1)
        patch.setattr(offload_selection, "LEAST_PAGES", 1)
        patch.setattr(offload_selection, "LEAST_BYTES", 1)
        with pytest.raises(DriverError, match="too late"):
            compact(images, images / "offloaded", check=check)

    assert everything(images) == before
    assert list(images.glob("offloaded/*")) == []


def test_a_directory_without_tasks_is_compacted_to_nothing(tmp_path: Path) -> None:
    assert compact(tmp_path) == Compaction(0, 0, 0, 0)


def test_zero_pages_of_shared_memory_are_dropped(tmp_path: Path) -> None:
    """It has a pagemap of its own, by offsets, and is restored into a new, empty file."""
    content = CONTENTS["z"] + CONTENTS["d"] + CONTENTS["z"]
    (tmp_path / "pagemap-shmem-77.img").write_bytes(
        pagemap(5, [PageRun(0, 2, PRESENT), PageRun(5 * PAGE_BYTES, 1, PRESENT)])
    )
    (tmp_path / "pages-5.img").write_bytes(content)
    done = compact(tmp_path, tmp_path / "offloaded")

    assert done == Compaction(3 * PAGE_BYTES, PAGE_BYTES, 3, 2)
    assert stored_pages(tmp_path, "shmem-77") == {PAGE_BYTES: CONTENTS["d"]}
    assert not (tmp_path / "offloaded").exists()
