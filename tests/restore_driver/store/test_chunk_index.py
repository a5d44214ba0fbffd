"""Pieces and their index: nothing grows, nothing is unpacked unchecked, no name leads out."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_driver.artifact.manifest import FileEntry, Manifest
from restore_driver.errors import DriverError, Reason
from restore_driver.store import chunk_index as travel
from restore_driver.store.chunk_index import Travel, TravellingFile
from tests.restore_driver.artifact.conftest import about

DIGEST = "0" * 64


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=4096), st.integers(1, 50))
def test_a_piece_comes_back_and_never_grows(content: bytes, times: int) -> None:
    raw = content * times
    stored, digest = travel.pack(raw)

    assert len(stored) <= len(raw)
    assert travel.unpack(stored, digest, len(raw)) == raw


@pytest.mark.parametrize("raw", [os.urandom(1 << 16), bytes(1 << 16)], ids=["as it is", "packed"])
def test_a_piece_with_a_turned_bit_is_none(raw: bytes) -> None:
    stored, digest = travel.pack(raw)
    turned = bytes([stored[0] ^ 1]) + stored[1:]

    assert travel.unpack(turned, digest, len(raw)) is None
    assert travel.unpack(stored[:-1], digest, len(raw)) is None


def test_a_frame_that_says_another_size_takes_no_memory() -> None:
    """An index whose digest fits, and a frame that would become larger than the piece: a bomb."""
    stored, digest = travel.pack(bytes(64 << 20))

    assert travel.unpack(stored, digest, 4 << 20) is None


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_pieces_cover_a_file(size: int, piece: int) -> None:
    sizes = travel.piece_sizes(size, piece)

    assert sum(sizes) == size and all(0 < each <= piece for each in sizes)


def manifest_of(*files: tuple[str, int]) -> Manifest:
    entries = tuple(FileEntry(path=path, size_bytes=size, digest=DIGEST) for path, size in files)
    return Manifest(name="counter", files=entries, **about())


def file_of(path: str, *stored: int) -> TravellingFile:
    return TravellingFile(path=path, stored_bytes=stored, digests=(DIGEST,) * len(stored))


def test_an_index_that_fits_is_put_in_the_manifests_order() -> None:
    index = Travel(piece_bytes=10, files=(file_of("b", 3), file_of("a", 10, 4)))

    assert travel.matched(index, manifest_of(("a", 15), ("b", 3)), "index") == (index.files[1], index.files[0])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((file_of("a", 10, 4),), "different files"),
        ((file_of("a", 10, 4), file_of("c", 3)), "different files"),
        ((file_of("a", 10, 4), file_of("b", 3), file_of("../b", 3)), "different files"),
        ((file_of("a", 10, 4), file_of("a", 10, 4), file_of("b", 3)), "different files"),
        ((file_of("a", 10), file_of("b", 3)), "a has another number of pieces"),
        ((file_of("a", 10, 4), file_of("b", 4)), "a piece of b is larger than it was"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_with_the_file(files: tuple[TravellingFile, ...], said: str) -> None:
    with pytest.raises(DriverError) as caught:
        travel.matched(Travel(piece_bytes=10, files=files), manifest_of(("a", 15), ("b", 3)), "index")

    assert caught.value.reason is Reason.MANIFEST_INVALID
    assert said in caught.value.detail


@pytest.mark.parametrize("path", ["./a", "a//b", "a/.", "manifest.json", "."])
def test_names_that_are_no_plain_paths_are_refused(path: str) -> None:
    with pytest.raises(DriverError) as caught:
        travel.require_plain(path)

    assert caught.value.reason is Reason.NOT_TRUSTED


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", ""])
def test_names_that_lead_out_never_pass_the_manifest(path: str) -> None:
    with pytest.raises(ValueError, match="not a path within"):
        manifest_of((path, 1))


def test_an_index_of_another_version_or_with_more_in_it_is_refused() -> None:
    good = json.loads(Travel(piece_bytes=10, files=()).model_dump_json())
    for bad in ({**good, "schema_version": 2}, {**good, "more": 1}, {"piece_bytes": 0, "files": []}):
        with pytest.raises(DriverError) as caught:
            travel.parse(json.dumps(bad).encode(), "STORE/travel.json")

        assert caught.value.reason is Reason.MANIFEST_INVALID
        assert "STORE/travel.json" in caught.value.detail
