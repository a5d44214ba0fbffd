"""CRIU's image files, as far as we read them: magic numbers, then length-prefixed protobuf messages.

Only the wire format is known here (varints, fixed words, length-delimited fields; protobuf's "Encoding" document) and
the few field numbers that we need, from CRIU's `images/*.proto`. A pagemap's head is carried byte for byte; its entries
have no fields but those that are known here (CRIU 4.2).
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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT_BITS = 70


@dataclass(frozen=True)
class PageRun:
    """One entry of a pagemap: pages of one kind that follow one another."""

    address: int
    pages: int
    flags: int

    @property
    def stored(self) -> bool:
        """Its pages lie in the pages file."""
        return bool(self.flags & PRESENT)

    @property
    def end(self) -> int:
        """The address after its last page."""
        return self.address + self.pages * PAGE_BYTES


@dataclass(frozen=True)
class Pagemap:
    """A pagemap file: which pages file it speaks of, and its runs in the pages' order."""

    pages_id: int
    head: bytes
    runs: tuple[PageRun, ...]


def read_messages(path: Path, magic: int) -> tuple[bytes, ...]:
    """The protobuf messages of an image file.

    Raises:
        DriverError: MANIFEST_INVALID naming the file when it is none or is cut off.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _broken(path, f"{error.strerror}") from error
    if len(content) < 8 or struct.unpack_from("<II", content) != (IMG_COMMON, magic):
        raise _broken(path, "its magic number is another")
    found, at = [], 8
    while at < len(content):
        if at + 4 > len(content):
            raise _broken(path, f"it is cut off at byte {at}")
        (size,) = struct.unpack_from("<I", content, at)
        at += 4
        if at + size > len(content):
            raise _broken(path, f"it is cut off at byte {at}")
        found.append(content[at : at + size])
        at += size
    return tuple(found)


def write_messages(magic: int, messages: list[bytes]) -> bytes:
    """The content of an image file."""
    parts = [struct.pack("<II", IMG_COMMON, magic)]
    for message in messages:
        parts += [struct.pack("<I", len(message)), message]
    return b"".join(parts)


def read_pagemap(path: Path) -> Pagemap:
    """A pagemap file.

    Raises:
        DriverError: MANIFEST_INVALID.
    """
    messages = read_messages(path, PAGEMAP_MAGIC)
    if not messages:
        raise _broken(path, "it has no head")
    head = dict(_numbers(messages[0], path))
    runs = []
    for message in messages[1:]:
        fields = dict(_numbers(message, path))
        flags = fields.get(4, IN_PARENT if fields.get(3) else PRESENT)
        runs.append(PageRun(fields.get(1, 0), fields.get(5) or fields.get(2, 0), flags))
    return Pagemap(head.get(1, 0), messages[0], tuple(runs))


def write_pagemap(pagemap: Pagemap) -> bytes:
    """The content of a pagemap file, as CRIU 4.2 writes it: the old 32-bit count of pages is zero."""
    messages = [pagemap.head]
    for run in pagemap.runs:
        messages.append(
            b"\x08" + _varint(run.address) + b"\x10\x00\x20" + _varint(run.flags) + b"\x28" + _varint(run.pages)
        )
    return write_messages(PAGEMAP_MAGIC, messages)


def private_anonymous_ranges(mm: Path) -> tuple[tuple[int, int], ...]:
    """Address ranges [start, end) of a task's private anonymous memory, where an absent page reads as zero.

    Raises:
        DriverError: MANIFEST_INVALID.
    """
    return tuple(area.span for area in private_anonymous_areas(mm))


@dataclass(frozen=True)
class Area:
    """A mapping, as an mm image has it."""

    start: int
    end: int
    prot: int
    flags: int
    status: int

    @property
    def span(self) -> tuple[int, int]:
        """Its addresses, [start, end)."""
        return (self.start, self.end)

    @property
    def private_anonymous(self) -> bool:
        """An absent page of it reads as zero, and nobody else may have it."""
        return bool(self.status & _VMA_ANON_PRIVATE) and self.flags & (_MAP_PRIVATE | _MAP_ANONYMOUS) == 0x22

    @property
    def plain(self) -> bool:
        """Ordinary memory which the task may write: no stack that grows, no page of the kernel's."""
        special = self.status & ~(_VMA_REGULAR | _VMA_HEAP | _VMA_ANON_PRIVATE)
        return not special and not self.flags & (_MAP_GROWSDOWN | _MAP_HUGETLB) and bool(self.prot & _PROT_WRITE)


def private_anonymous_areas(mm: Path) -> tuple[Area, ...]:
    """Those of a task's `mm-PID.img`, sorted by their addresses.

    Raises:
        DriverError: MANIFEST_INVALID.
    """
    return tuple(sorted((area for area in _areas(mm) if area.private_anonymous), key=lambda area: area.start))


@dataclass(frozen=True)
class Core:
    """What a thread's core image says, as far as we ask."""

    stopped: bool
    """Its task was stopped by a signal of its own before the dump."""
    rseq_address: int | None
    """Where the kernel writes the CPU that the thread runs on (rseq(2)), whenever it likes."""


def read_core(path: Path) -> Core:
    """A `core-TID.img`.

    Raises:
        DriverError: MANIFEST_INVALID.
    """
    messages = read_messages(path, CORE_MAGIC)
    if not messages:
        raise _broken(path, "it is empty")
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
                raise _broken(mm, "an area has no addresses")
            yield Area(vma[1], vma[2], vma.get(5, 0), vma.get(6, 0), vma.get(7, 0))


def fields_of(message: bytes, path: Path) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protobuf message: number and value (an integer, or bytes)."""
    at = 0
    try:
        while at < len(message):
            key, at = _read_varint(message, at)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, at = _read_varint(message, at)
                yield number, value
            elif kind == _BYTES:
                size, at = _read_varint(message, at)
                if at + size > len(message):
                    raise IndexError
                yield number, message[at : at + size]
                at += size
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
                if at + size > len(message):
                    raise IndexError
                yield number, int.from_bytes(message[at : at + size], "little")
                at += size
            else:
                raise _broken(path, f"field {number} is of unknown kind {kind}")
    except IndexError:
        raise _broken(path, "a message is cut off, or none") from None


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
            raise IndexError


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _broken(path: Path, what: str) -> DriverError:
    return DriverError(Reason.MANIFEST_INVALID, f"{path.name} is no image of CRIU's: {what}", "dump again")
