"""Chunks and their index: no chunk grows, none is decompressed unverified, no path leaves the artifact."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_driver.artifact.manifest import FileEntry, Manifest
from restore_driver.errors import DriverError, Reason
from restore_driver.store import chunk_index
from restore_driver.store.chunk_index import ChunkedFile, ChunkIndex
from tests.restore_driver.artifact.conftest import about

DIGEST = "0" * 64


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=4096), st.integers(1, 50))
def test_a_chunk_is_restored_exactly_and_never_grows(content: bytes, times: int) -> None:
    raw = content * times
    stored, digest = chunk_index.pack(raw)

    assert len(stored) <= len(raw)
    assert chunk_index.unpack(stored, digest, len(raw)) == raw


@pytest.mark.parametrize("raw", [os.urandom(1 << 16), bytes(1 << 16)], ids=["as it is", "packed"])
def test_a_chunk_with_a_flipped_bit_is_refused(raw: bytes) -> None:
    stored, digest = chunk_index.pack(raw)
    flipped = bytes([stored[0] ^ 1]) + stored[1:]

    assert chunk_index.unpack(flipped, digest, len(raw)) is None
    assert chunk_index.unpack(stored[:-1], digest, len(raw)) is None


def test_a_frame_that_declares_another_size_is_refused_before_memory_is_allocated() -> None:
    """A decompression bomb: the digest matches, and the frame is larger than its chunk."""
    stored, digest = chunk_index.pack(bytes(64 << 20))

    assert chunk_index.unpack(stored, digest, 4 << 20) is None


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_chunks_cover_a_file(size: int, chunk: int) -> None:
    sizes = chunk_index.chunk_sizes(size, chunk)

    assert sum(sizes) == size and all(0 < each <= chunk for each in sizes)


def manifest_of(*files: tuple[str, int]) -> Manifest:
    entries = tuple(FileEntry(path=path, size_bytes=size, digest=DIGEST) for path, size in files)
    return Manifest(name="counter", files=entries, **about())


def file_of(path: str, *stored: int) -> ChunkedFile:
    return ChunkedFile(path=path, stored_bytes=stored, digests=(DIGEST,) * len(stored))


def test_a_matching_index_is_returned_in_the_manifests_order() -> None:
    index = ChunkIndex(chunk_bytes=10, files=(file_of("b", 3), file_of("a", 10, 4)))

    assert chunk_index.matched(index, manifest_of(("a", 15), ("b", 3)), "index") == (index.files[1], index.files[0])


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ((file_of("a", 10, 4),), "different files"),
        ((file_of("a", 10, 4), file_of("c", 3)), "different files"),
        ((file_of("a", 10, 4), file_of("b", 3), file_of("../b", 3)), "different files"),
        ((file_of("a", 10, 4), file_of("a", 10, 4), file_of("b", 3)), "different files"),
        ((file_of("a", 10), file_of("b", 3)), "a has another number of chunks"),
        ((file_of("a", 10, 4), file_of("b", 4)), "a chunk of b is larger than it was"),
    ],
)
def test_an_index_that_differs_from_the_manifest_is_refused_with_the_file(
    files: tuple[ChunkedFile, ...], problem: str
) -> None:
    with pytest.raises(DriverError) as caught:
        chunk_index.matched(ChunkIndex(chunk_bytes=10, files=files), manifest_of(("a", 15), ("b", 3)), "index")

    assert caught.value.reason is Reason.MANIFEST_INVALID
    assert problem in caught.value.detail


@pytest.mark.parametrize("path", ["./a", "a//b", "a/.", "manifest.json", "."])
def test_paths_that_are_not_normalised_are_refused(path: str) -> None:
    with pytest.raises(DriverError) as caught:
        chunk_index.require_plain(path)

    assert caught.value.reason is Reason.NOT_TRUSTED


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", ""])
def test_paths_that_leave_the_artifact_are_refused_by_the_manifest(path: str) -> None:
    with pytest.raises(ValueError, match="not a path within"):
        manifest_of((path, 1))


def test_an_index_of_another_version_or_with_an_unknown_field_is_refused() -> None:
    good = json.loads(ChunkIndex(chunk_bytes=10, files=()).model_dump_json())
    for bad in ({**good, "schema_version": 1}, {**good, "more": 1}, {"chunk_bytes": 0, "files": []}):
        with pytest.raises(DriverError) as caught:
            chunk_index.parse(json.dumps(bad).encode(), "STORE/chunks.json")

        assert caught.value.reason is Reason.MANIFEST_INVALID
        assert "STORE/chunks.json" in caught.value.detail
