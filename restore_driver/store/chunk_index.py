"""The chunk index of a snapshot, `chunks.json`: sizes and digests of the chunks in which a store keeps its files.

A file is cut into chunks of `chunk_bytes`; each becomes a zstd frame of its own, or stays uncompressed where a frame
would be no smaller. The chunks of a file follow one another in one object. The index holds each chunk's size in the
store and the BLAKE3 digest of its stored bytes: a chunk is verified before it is decompressed, many can be fetched in
parallel, and an interrupted transfer resumes after the last valid chunk. The index decides nothing else: the manifest's
digest of the whole file is verified last.
"""

from __future__ import annotations

import threading
from pathlib import PurePosixPath
from typing import Annotated, Literal

import zstandard
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from restore_driver.artifact.manifest import MANIFEST_NAME, Manifest
from restore_driver.errors import DriverError, Reason
from restore_driver.validation_errors import where_and_why

NAME = "chunks.json"
OLD_NAME = "travel.json"
"""The index of schema version 1, which called chunks pieces; refused by name (`stage.py`)."""
LARGEST_BYTES = 64 << 20
CHUNK_BYTES = 4 << 20
"""Large enough that zstd and the network work at full speed, small enough that little is fetched twice."""
_LEVEL = 3
"""zstd's default; a core compresses some 300 MB/s."""
_HINT = "push it again (forethaw push --again)"


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChunkedFile(_Closed):
    """One file: for each chunk its stored bytes and their BLAKE3 digest (64 hex digits)."""

    path: str
    stored_bytes: tuple[Annotated[int, Field(ge=1)], ...]
    digests: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]

    def starts(self) -> list[int]:
        """Return the offset of each chunk in the object, and last the object's size, in bytes."""
        starts = [0]
        for size in self.stored_bytes:
            starts.append(starts[-1] + size)
        return starts


class ChunkIndex(_Closed):
    """The index of a snapshot."""

    schema_version: Literal[2] = 2
    chunk_bytes: Annotated[int, Field(ge=1, le=256 << 20)]
    files: tuple[ChunkedFile, ...]


def parse(content: bytes, where: str) -> ChunkIndex:
    """Parse an index's JSON; `where` names the object in errors.

    Raises:
        DriverError: MANIFEST_INVALID naming the field.
    """
    if len(content) > LARGEST_BYTES:
        raise DriverError(Reason.MANIFEST_INVALID, f"{where} is larger than {LARGEST_BYTES:,} bytes", _HINT)
    try:
        return ChunkIndex.model_validate_json(content)
    except ValidationError as error:
        field, why = where_and_why(error, "the file")
        raise DriverError(Reason.MANIFEST_INVALID, f"{where}: {field}: {why}", _HINT) from error


def matched(index: ChunkIndex, manifest: Manifest, where: str) -> tuple[ChunkedFile, ...]:
    """Return the index's files in the manifest's order if both agree on names, counts and sizes.

    Raises:
        DriverError: MANIFEST_INVALID naming the file; NOT_TRUSTED for a path that is not normalised.
    """
    by_path = {file.path: file for file in index.files}
    if len(by_path) != len(index.files) or set(by_path) != {entry.path for entry in manifest.files}:
        raise DriverError(Reason.MANIFEST_INVALID, f"{where} and its manifest name different files", _HINT)
    for entry in manifest.files:
        require_plain(entry.path)
        file, sizes = by_path[entry.path], chunk_sizes(entry.size_bytes, index.chunk_bytes)
        if len(file.stored_bytes) != len(sizes) or len(file.digests) != len(sizes):
            raise DriverError(Reason.MANIFEST_INVALID, f"{where}: {entry.path} has another number of chunks", _HINT)
        if any(stored > size for stored, size in zip(file.stored_bytes, sizes, strict=True)):
            raise DriverError(Reason.MANIFEST_INVALID, f"{where}: a chunk of {entry.path} is larger than it was", _HINT)
    return tuple(by_path[entry.path] for entry in manifest.files)


def require_plain(path: str) -> None:
    """Refuse paths that the manifest's own check accepts, but that would overwrite one another.

    Raises:
        DriverError: NOT_TRUSTED.
    """
    if PurePosixPath(path).as_posix() != path or path in (".", MANIFEST_NAME):
        raise DriverError(
            Reason.NOT_TRUSTED, f"{path!r} is not a plain path within an artifact", "make the snapshot again"
        )


def object_of(place: str, path: str) -> str:
    """Return the name of the object that holds a file's chunks."""
    return f"{place}/files/{path}"


def chunk_sizes(size_bytes: int, chunk_bytes: int) -> list[int]:
    """Return the bytes of each chunk of a file before compression."""
    whole, rest = divmod(size_bytes, chunk_bytes)
    return [chunk_bytes] * whole + ([rest] if rest else [])


class _Packers(threading.local):
    """The zstd contexts of a thread."""

    def __init__(self) -> None:
        self.packer = zstandard.ZstdCompressor(level=_LEVEL)
        self.unpacker = zstandard.ZstdDecompressor()


_packers = _Packers()


def pack(raw: bytes) -> tuple[bytes, str]:
    """Return the stored bytes of a chunk and their BLAKE3 digest (64 hex digits)."""
    packed = _packers.packer.compress(raw)
    stored = packed if len(packed) < len(raw) else raw
    return stored, blake3(stored).hexdigest()


def unpack(stored: bytes, digest: str, size_bytes: int) -> bytes | None:
    """Return the `size_bytes` of a chunk from its stored bytes; None if they do not match digest or size."""
    if blake3(stored).hexdigest() != digest:
        return None
    if len(stored) == size_bytes:
        return stored
    try:
        if zstandard.get_frame_parameters(stored).content_size != size_bytes:  # before memory is allocated for it
            return None
        return _packers.unpacker.decompress(stored)
    except zstandard.ZstdError:
        return None
