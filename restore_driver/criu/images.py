"""Read and write the image files of CRIU that the driver needs: magic numbers, then length-prefixed protobuf messages.

This module knows the wire format (varints, fixed words, length-delimited fields; protobuf's "Encoding" document) and
the few field numbers that are needed, from CRIU's `images/*.proto`. A pagemap's head is copied byte for byte; its
entries have no other fields than those known here (CRIU 4.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from restore_driver.errors import DriverError, Reason

IMG_COMMON, PAGEMAP_MAGIC, MM_MAGIC, CORE_MAGIC = 0x54564319, 0x56084025, 0x57492820, 0x55053847
PAGE_BYTES = 4096
IN_PARENT, LAZY, PRESENT = 1, 2, 4
"""Flags of a pagemap entry (`PE_PARENT`, `PE_LAZY`, `PE_PRESENT`)."""
_VMA_REGULAR, _VMA_HEAP, _VMA_ANON_PRIVATE = 1, 1 << 5, 1 << 9
_MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_GROWSDOWN, _MAP_HUGETLB = 0x02, 0x20, 0x100, 0x40000
_PROT_WRITE = 2
_TASK_STOPPED = 3
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
"""Sizes of protobuf's fixed-width wire types."""
_LONGEST_VARINT_BITS = 70


@dataclass(frozen=True)
class PageRun:
    """One entry of a pagemap: consecutive pages with equal flags."""

    address: int
    pages: int
    flags: int

    @property
    def stored(self) -> bool:
        """True if its pages are in the pages file."""
        return bool(self.flags & PRESENT)

    @property
    def end(self) -> int:
        """The address after its last page."""
        return self.address + self.pages * PAGE_BYTES


@dataclass(frozen=True)
class Pagemap:
    """A pagemap file: the number of its pages file, and its runs in the pages' order."""

    pages_id: int
    head: bytes
    runs: tuple[PageRun, ...]


def read_messages(path: Path, magic: int) -> tuple[bytes, ...]:
    """Return the protobuf messages of an image file.

    Raises:
        DriverError: MANIFEST_INVALID naming a file that is missing, not such an image, or truncated.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _invalid(path, f"{error.strerror}") from error
    if len(content) < 8 or struct.unpack_from("<II", content) != (IMG_COMMON, magic):
        raise _invalid(path, "its magic number differs")
    found, at = [], 8
    while at < len(content):
        if at + 4 > len(content):
            raise _invalid(path, f"it is truncated at byte {at}")
        (size,) = struct.unpack_from("<I", content, at)
        at += 4
        if at + size > len(content):
            raise _invalid(path, f"it is truncated at byte {at}")
        found.append(content[at : at + size])
        at += size
    return tuple(found)


def write_messages(magic: int, messages: list[bytes]) -> bytes:
    """Return the content of an image file."""
    parts = [struct.pack("<II", IMG_COMMON, magic)]
    for message in messages:
        parts += [struct.pack("<I", len(message)), message]
    return b"".join(parts)


def read_pagemap(path: Path) -> Pagemap:
    """Read a pagemap file.

    Raises:
        DriverError: MANIFEST_INVALID naming the file.
    """
    messages = read_messages(path, PAGEMAP_MAGIC)
    if not messages:
        raise _invalid(path, "it has no head")
    head = dict(_numbers(messages[0], path))
    runs = []
    for message in messages[1:]:
        fields = dict(_numbers(message, path))
        flags = fields.get(4, IN_PARENT if fields.get(3) else PRESENT)
        runs.append(PageRun(fields.get(1, 0), fields.get(5) or fields.get(2, 0), flags))
    return Pagemap(head.get(1, 0), messages[0], tuple(runs))


def write_pagemap(pagemap: Pagemap) -> bytes:
    """Return the content of a pagemap file as CRIU 4.2 writes it: the old 32-bit count of pages is zero."""
    entries = [
        b"\x08" + _varint(run.address) + b"\x10\x00\x20" + _varint(run.flags) + b"\x28" + _varint(run.pages)
        for run in pagemap.runs
    ]
    return write_messages(PAGEMAP_MAGIC, [pagemap.head, *entries])


def private_anonymous_ranges(mm: Path) -> tuple[tuple[int, int], ...]:
    """Return the ranges [start, end) of a task's private anonymous memory, where an absent page reads as zero.

    Raises:
        DriverError: MANIFEST_INVALID.
    """
    return tuple(area.span for area in private_anonymous_areas(mm))


@dataclass(frozen=True)
class Area:
    """A memory mapping of an mm image; `prot` and `flags` as mmap(2), `status` as CRIU's VMA flags."""

    start: int
    end: int
    prot: int
    flags: int
    status: int

    @property
    def span(self) -> tuple[int, int]:
        """The address range [start, end)."""
        return (self.start, self.end)

    @property
    def private_anonymous(self) -> bool:
        """True if an absent page of it reads as zero and no other process shares it."""
        private = _MAP_PRIVATE | _MAP_ANONYMOUS
        return bool(self.status & _VMA_ANON_PRIVATE) and self.flags & private == private

    @property
    def plain(self) -> bool:
        """True for ordinary writable memory: not a growing stack, not huge pages, not a special mapping."""
        special = self.status & ~(_VMA_REGULAR | _VMA_HEAP | _VMA_ANON_PRIVATE)
        return not special and not self.flags & (_MAP_GROWSDOWN | _MAP_HUGETLB) and bool(self.prot & _PROT_WRITE)


def private_anonymous_areas(mm: Path) -> tuple[Area, ...]:
    """Return the private anonymous mappings of a task's `mm-PID.img`, sorted by address.

    Raises:
        DriverError: MANIFEST_INVALID.
    """
    return tuple(sorted((area for area in _areas(mm) if area.private_anonymous), key=lambda area: area.start))


@dataclass(frozen=True)
class Core:
    """The fields of a thread's core image that the driver uses."""

    stopped: bool
    """Its task had been stopped by a signal before the dump."""
    rseq_address: int | None
    """Address where the kernel may at any time write the CPU that the thread runs on (rseq(2))."""


def read_core(path: Path) -> Core:
    """Read a `core-TID.img`.

    Raises:
        DriverError: MANIFEST_INVALID.
    """
    messages = read_messages(path, CORE_MAGIC)
    if not messages:
        raise _invalid(path, "it is empty")
    parts = {number: value for number, value in fields_of(messages[0], path) if isinstance(value, bytes)}
    task = dict(_numbers(parts.get(3, b""), path))
    thread = {number: value for number, value in fields_of(parts.get(5, b""), path) if isinstance(value, bytes)}
    rseq = dict(_numbers(thread.get(15, b""), path))
    return Core(task.get(1) == _TASK_STOPPED, rseq.get(1))


def _areas(mm: Path) -> Iterator[Area]:
    messages = read_messages(mm, MM_MAGIC)
    for number, value in fields_of(messages[0], mm) if messages else ():
        if number == 14 and isinstance(value, bytes):
            vma = dict(_numbers(value, mm))
            if not 0 <= vma.get(1, -1) < vma.get(2, -1):
                raise _invalid(mm, "an area has no addresses")
            yield Area(vma[1], vma[2], vma.get(5, 0), vma.get(6, 0), vma.get(7, 0))


def fields_of(message: bytes, path: Path) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value (an integer, or bytes) of each field of a protobuf message.

    Raises:
        DriverError: MANIFEST_INVALID naming `path` if the message is truncated or has a field of unknown kind.
    """
    at = 0
    try:
        while at < len(message):
            key, at = _read_varint(message, at)
            value, at = _read_value(message, at, key & 7)
            yield key >> 3, value
    except IndexError as error:
        raise _invalid(path, f"a message is malformed: {error}") from None


def _read_value(message: bytes, at: int, kind: int) -> tuple[int | bytes, int]:
    """Return a field's value and the offset behind it; raise IndexError if it is truncated or of unknown kind."""
    if kind == _VARINT:
        return _read_varint(message, at)
    if kind == _BYTES:
        size, at = _read_varint(message, at)
        return _slice(message, at, size), at + size
    if kind in _FIXED_BYTES:
        size = _FIXED_BYTES[kind]
        return int.from_bytes(_slice(message, at, size), "little"), at + size
    raise IndexError(f"a field is of unknown kind {kind}")


def _slice(message: bytes, at: int, size: int) -> bytes:
    if at + size > len(message):
        raise IndexError("it is truncated")
    return message[at : at + size]


def _numbers(message: bytes, path: Path) -> Iterator[tuple[int, int]]:
    for number, value in fields_of(message, path):
        if isinstance(value, int):
            yield number, value


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift >= _LONGEST_VARINT_BITS:
            raise IndexError("a varint is too long")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _invalid(path: Path, problem: str) -> DriverError:
    return DriverError(Reason.MANIFEST_INVALID, f"{path.name} is not an image of CRIU's: {problem}", "dump again")
