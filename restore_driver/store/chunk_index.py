"""`travel.json`: how the files of a snapshot lie in a store, in pieces that can be fetched and checked one by one.

A file is cut into pieces of `piece_bytes`; each becomes a zstd frame of its own, or stays as it is where a frame would
be no smaller, so that nothing grows. The pieces of a file follow one another in one object. The index holds each
piece's size in the store and the BLAKE3 of what lies there: a piece is checked before it is unpacked, many can be
fetched side by side, and a transfer that broke off goes on after the last good piece. What the index says is trusted no
further than that: the manifest's digest of the whole file, checked last, is what counts.
"""

from __future__ import annotations

import threading
from pathlib import PurePosixPath
from typing import Annotated, Literal

import zstandard
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from restore_driver.artifact.manifest import NAME as MANIFEST
from restore_driver.artifact.manifest import Manifest
from restore_driver.errors import DriverError, Reason
from restore_driver.validation_errors import where_and_why

NAME = "travel.json"
LARGEST_BYTES = 64 << 20
PIECE_BYTES = 4 << 20
"""Large enough that zstd and the network work at full speed, small enough that little is fetched twice."""
_LEVEL = 3
"""Of zstd: its default; a core packs some 300 MB/s."""
_MEND = "push it again (forethaw push --again)"


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TravellingFile(_Closed):
    """One file: for each piece its bytes in the store and the BLAKE3 of these."""

    path: str
    stored_bytes: tuple[Annotated[int, Field(ge=1)], ...]
    digests: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]

    def starts(self) -> list[int]:
        """Where each piece begins in the object, and last where it ends."""
        starts = [0]
        for size in self.stored_bytes:
            starts.append(starts[-1] + size)
        return starts


class Travel(_Closed):
    """The index of a snapshot."""

    schema_version: Literal[1] = 1
    piece_bytes: Annotated[int, Field(ge=1, le=256 << 20)]
    files: tuple[TravellingFile, ...]


def parse(content: bytes, where: str) -> Travel:
    """An index from its JSON.

    Raises:
        DriverError: MANIFEST_INVALID naming the field.
    """
    if len(content) > LARGEST_BYTES:
        raise DriverError(Reason.MANIFEST_INVALID, f"{where} is larger than {LARGEST_BYTES:,} bytes", _MEND)
    try:
        return Travel.model_validate_json(content)
    except ValidationError as error:
        field, why = where_and_why(error, "the file")
        raise DriverError(Reason.MANIFEST_INVALID, f"{where}: {field}: {why}", _MEND) from error


def matched(travel: Travel, manifest: Manifest, where: str) -> tuple[TravellingFile, ...]:
    """The index's files in the manifest's order, once both agree on names, numbers and sizes.

    Raises:
        DriverError: MANIFEST_INVALID naming the file; NOT_TRUSTED for a name that leads out or in circles.
    """
    by_path = {file.path: file for file in travel.files}
    if len(by_path) != len(travel.files) or set(by_path) != {entry.path for entry in manifest.files}:
        raise DriverError(Reason.MANIFEST_INVALID, f"{where} and its manifest name different files", _MEND)
    for entry in manifest.files:
        require_plain(entry.path)
        file, sizes = by_path[entry.path], piece_sizes(entry.size_bytes, travel.piece_bytes)
        if len(file.stored_bytes) != len(sizes) or len(file.digests) != len(sizes):
            raise DriverError(Reason.MANIFEST_INVALID, f"{where}: {entry.path} has another number of pieces", _MEND)
        if any(stored > size for stored, size in zip(file.stored_bytes, sizes, strict=True)):
            raise DriverError(Reason.MANIFEST_INVALID, f"{where}: a piece of {entry.path} is larger than it was", _MEND)
    return tuple(by_path[entry.path] for entry in manifest.files)


def require_plain(path: str) -> None:
    """Refuses names that the manifest's own check lets pass, and that would be written over one another.

    Raises:
        DriverError: NOT_TRUSTED.
    """
    if PurePosixPath(path).as_posix() != path or path in (".", MANIFEST):
        raise DriverError(Reason.NOT_TRUSTED, f"{path!r} is no plain path within an artifact", "make it anew")


def object_of(place: str, path: str) -> str:
    """Name of the object that holds a file's pieces."""
    return f"{place}/files/{path}"


def piece_sizes(size_bytes: int, piece_bytes: int) -> list[int]:
    """Bytes of each piece of a file before packing."""
    whole, rest = divmod(size_bytes, piece_bytes)
    return [piece_bytes] * whole + ([rest] if rest else [])


class _Packers(threading.local):
    """zstd's contexts, one a thread."""

    def __init__(self) -> None:
        self.packer = zstandard.ZstdCompressor(level=_LEVEL)
        self.unpacker = zstandard.ZstdDecompressor()


_packers = _Packers()


def pack(raw: bytes) -> tuple[bytes, str]:
    """A piece as it travels, and its digest."""
    packed = _packers.packer.compress(raw)
    stored = packed if len(packed) < len(raw) else raw
    return stored, blake3(stored).hexdigest()


def unpack(stored: bytes, digest: str, size_bytes: int) -> bytes | None:
    """A piece as it was; None when it isn't what was packed."""
    if blake3(stored).hexdigest() != digest:
        return None
    if len(stored) == size_bytes:
        return stored
    try:
        if zstandard.get_frame_parameters(stored).content_size != size_bytes:  # before memory is taken for it
            return None
        return _packers.unpacker.decompress(stored)
    except zstandard.ZstdError:
        return None
