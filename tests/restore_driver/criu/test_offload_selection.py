"""Offloaded memory is large, ordinary and private, and nothing that the kernel or a stopped task needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.criu.images import PAGE_BYTES, PRESENT, PageRun
from restore_driver.criu.offload_selection import LEAST_BYTES, LEAST_PAGES, Piece, plain_memory, split_offloaded
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.criu.wire import core, mm

BASE = 0x7F0000000000
PLAIN, HEAP = (0x22, 1 | 1 << 9), (0x22, 1 | 1 << 5 | 1 << 9)


def at(page: int) -> int:
    return BASE + page * PAGE_BYTES


PIECES = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6000)), min_size=1, max_size=6)
"""Gap before and length of each, in pages."""
RANGES = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3000)), max_size=6)


@given(drawn=PIECES, gaps=RANGES)
def test_kept_and_offloaded_pieces_are_all_pieces_in_order(
    drawn: list[tuple[int, int]], gaps: list[tuple[int, int]]
) -> None:
    """Every page keeps its offset; offloaded are long runs within the ranges, and enough of them."""
    pieces, page, place = [], 0, 0
    for gap, pages in drawn:
        pieces.append(Piece(PageRun(at(page + gap), pages, PRESENT), place * PAGE_BYTES))
        page, place = page + gap + pages, place + pages
    ranges, page = [], 0
    for gap, pages in gaps:
        ranges.append((at(page + gap), at(page + gap + pages)))
        page += gap + pages + 1
    stay, offloaded = split_offloaded(pieces, tuple(ranges))

    def pages_of(these: list[Piece]) -> dict[int, int]:
        return {
            piece.run.address + n * PAGE_BYTES: piece.at + n * PAGE_BYTES
            for piece in these
            for n in range(piece.run.pages)
        }

    assert pages_of(stay) | pages_of(offloaded) == pages_of(pieces)
    assert not set(pages_of(stay)) & set(pages_of(offloaded))
    for half in (stay, offloaded):
        assert half == sorted(half, key=lambda piece: piece.run.address)
    assert all(piece.run.pages >= LEAST_PAGES for piece in offloaded)
    assert all(any(low <= piece.run.address and piece.run.end <= high for low, high in ranges) for piece in offloaded)
    assert not offloaded or sum(piece.run.pages for piece in offloaded) * PAGE_BYTES >= LEAST_BYTES


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten pages of memory and ten of adjacent heap; one thread whose rseq area is in the fourth."""
    (tmp_path / "mm-7.img").write_bytes(mm([(at(10), at(20), *HEAP), (at(0), at(10), *PLAIN)]))
    (tmp_path / "core-7.img").write_bytes(core(rseq=at(3) + 64))
    (tmp_path / "core-8.img").write_bytes(core())
    return tmp_path


def test_pages_that_the_kernel_writes_are_not_offloaded(images: Path) -> None:
    """The kernel writes a thread's CPU there before memory is filled in; the dumped content would overwrite it."""
    assert plain_memory(images, ["7"]) == {"7": ((at(0), at(3)), (at(4), at(20)))}


def test_nothing_of_a_tree_with_a_stopped_task_is_offloaded(images: Path) -> None:
    """It must stay stopped, and after a restore it cannot be distinguished from the others."""
    (images / "core-9.img").write_bytes(core(task_state=3))

    assert plain_memory(images, ["7"]) == {}


def test_nothing_is_offloaded_without_core_images(images: Path) -> None:
    for path in images.glob("core-*"):
        path.unlink()

    assert plain_memory(images, ["7"]) == {}


@pytest.mark.parametrize(
    ("flags", "status", "prot"),
    [
        (0x122, 3 | 1 << 9, 3),  # a stack that grows
        (0x40022, 1 | 1 << 9, 3),  # huge pages of hugetlbfs
        (0x22, 1 | 1 << 3 | 1 << 9, 3),  # the kernel's own
        (0x22, 1 | 1 << 9, 1),  # read-only: only CRIU can write there
        (0x02, 1 | 1 << 6, 3),  # a file's
        (0x21, 1 | 1 << 8, 3),  # shared
    ],
)
def test_other_kinds_of_memory_are_not_offloaded(flags: int, status: int, prot: int, images: Path) -> None:
    (images / "mm-7.img").write_bytes(mm([(at(0), at(10), flags, status)], prot=prot))

    assert plain_memory(images, ["7"]) == {"7": ()}


@pytest.mark.parametrize("end", [0, 8, -3])
def test_a_truncated_core_image_is_named(end: int, images: Path) -> None:
    content = (images / "core-7.img").read_bytes()
    (images / "core-7.img").write_bytes(content[:end])
    with pytest.raises(DriverError) as caught:
        plain_memory(images, ["7"])

    assert (caught.value.reason, "core-7.img" in caught.value.detail) == (Reason.MANIFEST_INVALID, True)


AREAS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), max_size=6)


@given(tasks=st.lists(AREAS, min_size=1, max_size=4), rseq=st.lists(st.integers(0, 60), max_size=3))
def test_areas_at_equal_addresses_in_two_tasks_are_not_offloaded(
    tasks: list[list[tuple[int, int]]], rseq: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """They may share pages since a fork, which would be duplicated; every other page is offloaded for one task."""
    images, all_of = tmp_path_factory.mktemp("images"), list[list[tuple[int, int]]]()
    for number, areas in enumerate(tasks):
        page, found = 0, []
        for gap, length in areas:
            found.append((page + gap, page + gap + length))
            page += gap + length
        (images / f"mm-{number}.img").write_bytes(mm([(at(first), at(end), *PLAIN) for first, end in found]))
        all_of.append(found)
    (images / "core-0.img").write_bytes(core())
    for number, page in enumerate(rseq, 1):
        (images / f"core-{number}.img").write_bytes(core(rseq=at(page) + 8))
    plain = plain_memory(images, [str(number) for number in range(len(tasks))])

    twice = {area for areas in all_of for area in areas if sum(area in others for others in all_of) > 1}
    left = {page for first, end in twice for page in range(first, end)} | set(rseq)
    for number, areas in enumerate(all_of):
        seen = [page for low, high in plain[str(number)] for page in range((low - BASE) >> 12, (high - BASE) >> 12)]
        assert seen == [page for first, end in areas for page in range(first, end) if page not in left]
