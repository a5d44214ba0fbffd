"""Read the index of safetensors files: eight bytes of header length, a JSON header, then the tensors' bytes.

The format is Hugging Face's (github.com/huggingface/safetensors, "Format"). Only offsets are read here; the
replica interprets the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from restore_driver.errors import DriverError, Reason

_LONGEST_HEADER_BYTES = 100_000_000
"""The format's own limit."""
ALIGNMENT_BYTES = 256
"""Of each tensor within a range, as `replica/ranges.py` lays them out."""


@dataclass(frozen=True)
class Stored:
    """Location of a tensor's bytes."""

    file: Path
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class Layout:
    """Offset of each tensor in a replica's range of weights; bytes between them are zero."""

    total_bytes: int
    offsets_bytes: Mapping[str, int]


def index(files: Iterable[Path]) -> dict[str, Stored]:
    """Return the location of every tensor of the files.

    Raises:
        DriverError: WEIGHTS_FAILED naming the file and what is wrong with it.
    """
    found: dict[str, Stored] = {}
    for file in files:
        for name, stored in _index_one(file).items():
            if name in found:
                raise DriverError(Reason.WEIGHTS_FAILED, f"{file}: tensor {name} is in {found[name].file}, too")
            found[name] = stored
    return found


def in_file_order(files: Iterable[Path]) -> Layout:
    """Return the layout of a replica that has the files' own tensors in file order.

    Raises:
        DriverError: WEIGHTS_FAILED naming the file and what is wrong with it.
    """
    files = tuple(files)
    tensors, end, offsets = index(files), 0, {}
    for name, stored in sorted(tensors.items(), key=lambda item: (files.index(item[1].file), item[1].offset_bytes)):
        offsets[name] = end
        end += -(-stored.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    if not end:
        raise DriverError(Reason.WEIGHTS_FAILED, f"{', '.join(map(str, files))}: no tensors", "name the model's shards")
    return Layout(end, offsets)


def check(layout: Layout, tensors: Mapping[str, Stored]) -> None:
    """Refuse a layout whose tensors are missing, overlap or exceed its range.

    Raises:
        DriverError: WEIGHTS_FAILED naming the tensor.
    """
    end = 0
    for name, offset in sorted(layout.offsets_bytes.items(), key=lambda item: item[1]):
        if name not in tensors:
            raise DriverError(Reason.WEIGHTS_FAILED, f"tensor {name} is in none of the files", "name all shards")
        if offset < end:
            raise DriverError(Reason.WEIGHTS_FAILED, f"tensor {name} overlaps the one before it")
        end = offset + tensors[name].size_bytes
    if end > layout.total_bytes:
        raise DriverError(
            Reason.WEIGHTS_FAILED, f"the tensors end at byte {end:,}, the range has {layout.total_bytes:,}"
        )


def _index_one(file: Path) -> dict[str, Stored]:
    try:
        with file.open("rb") as content:
            begin, header = _read_header(content)
        size = file.stat().st_size
        return {
            name: _stored(name, about, file, begin, size) for name, about in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise DriverError(Reason.WEIGHTS_FAILED, f"{file} is no safetensors file: {error}") from error


def _read_header(content: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Return where the tensors begin, in bytes, and what the header says of each."""
    (length,) = struct.unpack("<Q", content.read(8))
    if length > _LONGEST_HEADER_BYTES:
        raise ValueError(f"its header would be {length:,} bytes long")
    return 8 + length, json.loads(content.read(length))


def _stored(name: str, about: dict[str, Any], file: Path, begin: int, size_bytes: int) -> Stored:
    first, last = about["data_offsets"]
    if not 0 <= first <= last or begin + last > size_bytes:
        raise ValueError(f"tensor {name} lies outside of it")
    return Stored(file, begin + first, last - first)
