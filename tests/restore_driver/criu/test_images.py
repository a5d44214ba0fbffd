"""CRIU's images are read as they are written, unknown fields included; invalid files are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.criu.images import (
    IN_PARENT,
    MM_MAGIC,
    PAGE_BYTES,
    PAGEMAP_MAGIC,
    PRESENT,
    Pagemap,
    PageRun,
    fields_of,
    private_anonymous_ranges,
    read_messages,
    read_pagemap,
    write_messages,
    write_pagemap,
)
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.criu.wire import Field, image, message, mm, pagemap, varint

WORD = st.integers(0, 2**64 - 1)
UNKNOWN: st.SearchStrategy[Field] = st.tuples(
    st.integers(20, 2**29 - 1), WORD | st.binary(max_size=20) | st.floats(allow_nan=False)
)
RUNS = st.lists(
    st.builds(
        PageRun,
        address=st.integers(0, (1 << 47) // PAGE_BYTES).map(lambda page: page * PAGE_BYTES),
        pages=st.integers(1, 1 << 40),
        flags=st.integers(0, 7),
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images") / "pagemap-9.img"


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DriverError) as caught:
        read_pagemap(path)
    assert caught.value.reason is Reason.MANIFEST_INVALID
    return caught.value.detail


@given(pages_id=st.integers(0, 2**32 - 1), runs=RUNS, unknown=st.lists(UNKNOWN, max_size=3))
def test_a_pagemap_is_written_as_it_was_read(
    pages_id: int, runs: list[PageRun], unknown: list[Field], path: Path
) -> None:
    content = pagemap(pages_id, runs, *unknown)
    path.write_bytes(content)
    found = read_pagemap(path)

    assert found == Pagemap(pages_id, message((1, pages_id), *unknown), tuple(runs))
    assert write_pagemap(found) == content


@given(value=WORD, number=st.integers(1, 2**29 - 1), rest=st.lists(UNKNOWN, max_size=3))
def test_every_varint_is_read_as_it_was_written(value: int, number: int, rest: list[Field], path: Path) -> None:
    found = list(fields_of(message((number, value), *rest), path))

    assert found[0] == (number, value)
    assert [each[0] for each in found[1:]] == [each[0] for each in rest]


def test_page_counts_and_parent_marks_of_older_crius_are_read(path: Path) -> None:
    """Before 4.2 the count of pages was field 2; before flags there was one boolean, field 3."""
    path.write_bytes(
        image(
            PAGEMAP_MAGIC,
            message((1, 3)),
            message((1, 4096), (2, 7), (4, PRESENT)),
            message((1, 40960), (2, 2)),
            message((1, 81920), (2, 1), (3, 1)),
        )
    )

    assert read_pagemap(path).runs == (
        PageRun(4096, 7, PRESENT),
        PageRun(40960, 2, PRESENT),
        PageRun(81920, 1, IN_PARENT),
    )


@given(messages=st.lists(st.binary(max_size=30), max_size=5), data=st.data())
def test_a_truncated_file_is_refused_unless_it_ends_between_two_messages(
    messages: list[bytes], data: st.DataObject, path: Path
) -> None:
    content = write_messages(MM_MAGIC, messages)
    ends = [len(write_messages(MM_MAGIC, messages[:count])) for count in range(len(messages) + 1)]
    end = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:end])
    if end in ends:
        assert read_messages(path, MM_MAGIC) == tuple(messages[: ends.index(end)])
    else:
        with pytest.raises(DriverError, match=r"pagemap-9\.img is not an image of CRIU's") as caught:
            read_messages(path, MM_MAGIC)
        assert caught.value.reason is Reason.MANIFEST_INVALID


@given(fields=st.lists(UNKNOWN, min_size=1, max_size=4), data=st.data())
def test_a_message_truncated_within_a_field_is_refused(fields: list[Field], data: st.DataObject, path: Path) -> None:
    whole, last = message(*fields), message(fields[-1])
    end = data.draw(st.integers(len(whole) - len(last) + 1, len(whole) - 1))
    with pytest.raises(DriverError, match=r"pagemap-9\.img"):
        list(fields_of(whole[:end], path))


@given(content=st.binary(max_size=60))
def test_arbitrary_bytes_are_read_or_refused_by_name(content: bytes, path: Path) -> None:
    for whole in (content, image(PAGEMAP_MAGIC, content), image(PAGEMAP_MAGIC, message((1, 1)), content)):
        path.write_bytes(whole)
        try:
            read_pagemap(path)
        except DriverError as error:
            assert (error.reason, "pagemap-9.img" in error.detail) == (Reason.MANIFEST_INVALID, True)


@given(content=st.binary(max_size=60), wrapped=st.booleans())
def test_an_arbitrary_memory_map_is_read_or_refused_by_name(content: bytes, wrapped: bool, path: Path) -> None:
    path.write_bytes(image(MM_MAGIC, message((14, content)) if wrapped else content))
    try:
        private_anonymous_ranges(path)
    except DriverError as error:
        assert (error.reason, "pagemap-9.img" in error.detail) == (Reason.MANIFEST_INVALID, True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "magic"),
        (b"\0" * 8, "magic"),
        (image(MM_MAGIC), "magic"),
        (image(PAGEMAP_MAGIC), "no head"),
        (image(PAGEMAP_MAGIC, message((1, 1)), varint(1 << 3 | 3)), "unknown kind 3"),
        (image(PAGEMAP_MAGIC, message((1, 1)), b"\x08" + b"\xff" * 10 + b"\1"), "a varint is too long"),
    ],
)
def test_an_invalid_pagemap_is_refused_with_the_problem(content: bytes, problem: str, path: Path) -> None:
    detail = refusal(path, content)

    assert detail.startswith("pagemap-9.img is not an image of CRIU's: ") and problem in detail


@pytest.mark.parametrize("fields", [[(6, 0x22), (7, 1 << 9)], [(1, 0x2000), (2, 0x1000), (6, 0x22), (7, 1 << 9)]])
def test_an_area_without_addresses_is_refused(fields: list[Field], path: Path) -> None:
    path.write_bytes(image(MM_MAGIC, message((14, message(*fields)))))
    with pytest.raises(DriverError, match=r"pagemap-9\.img is not an image of CRIU's: an area has no addresses"):
        private_anonymous_ranges(path)


PRIVATE_ANONYMOUS, STACK, SHARED_ANONYMOUS, PRIVATE_FILE, SHARED_FILE = 0x22, 0x122, 0x21, 0x02, 0x01
ANON_PRIVATE, ANON_SHARED, FILE_PRIVATE, FILE_SHARED, VDSO = 1 << 9, 1 << 8, 1 << 6, 1 << 7, 1 << 3


def test_only_private_anonymous_memory_reads_as_zero_where_it_is_absent(path: Path) -> None:
    """The mapping's flags and CRIU's classification must agree; ranges are sorted by address."""
    path.write_bytes(
        mm(
            [
                (0x9000, 0xA000, STACK, 1 | 2 | ANON_PRIVATE),
                (0x1000, 0x3000, PRIVATE_ANONYMOUS, 1 | ANON_PRIVATE),
                (0x3000, 0x4000, SHARED_ANONYMOUS, 1 | ANON_SHARED),
                (0x4000, 0x5000, PRIVATE_FILE, 1 | FILE_PRIVATE),
                (0x5000, 0x6000, SHARED_FILE, 1 | FILE_SHARED),
                (0x6000, 0x7000, PRIVATE_ANONYMOUS, 1 | VDSO),
                (0x7000, 0x8000, PRIVATE_FILE, 1 | ANON_PRIVATE),
            ],
            (15, b"unknown"),
        )
    )

    assert private_anonymous_ranges(path) == ((0x1000, 0x3000), (0x9000, 0xA000))
