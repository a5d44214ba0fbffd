"""Write images for tests in protobuf's wire format, with unknown fields."""

from __future__ import annotations

import struct

from restore_driver.criu.images import CORE_MAGIC, IMG_COMMON, MM_MAGIC, PAGEMAP_MAGIC, PageRun

Field = tuple[int, int | bytes | float]
"""Number and value: an integer is a varint, a float a fixed64, bytes are length-delimited."""


def varint(value: int) -> bytes:
    parts = []
    while True:
        parts.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(parts)


def message(*fields: Field) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        elif isinstance(value, float):
            parts.append(varint(number << 3 | 1) + struct.pack("<d", value))
        else:
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def image(magic: int, *messages: bytes) -> bytes:
    return struct.pack("<II", IMG_COMMON, magic) + b"".join(struct.pack("<I", len(each)) + each for each in messages)


def pagemap(pages_id: int, runs: list[PageRun], *more: Field) -> bytes:
    """Return a pagemap as CRIU writes it; `more` are unknown fields of its head."""
    entries = [message((1, run.address), (2, 0), (4, run.flags), (5, run.pages)) for run in runs]
    return image(PAGEMAP_MAGIC, message((1, pages_id), *more), *entries)


def core(task_state: int = 1, rseq: int | None = None, *more: Field) -> bytes:
    """Return a core image: the task's state (3 is stopped), and the address of its rseq area."""
    thread: list[Field] = [(1, 0x7F00), (13, b"python")]
    if rseq is not None:
        thread.append((15, message((1, rseq), (2, 32), (3, 7))))
    return image(
        CORE_MAGIC, message((1, 1), (3, message((1, task_state), (6, b"python"))), (5, message(*thread)), *more)
    )


def mm(vmas: list[tuple[int, int, int, int]], *more: Field, prot: int = 3) -> bytes:
    """Return a task's memory map: (start, end, flags, status) of each area, and unknown fields."""
    areas = [
        (14, message((1, start), (2, end), (3, 0), (4, 0), (5, prot), (6, flags), (7, status), (8, -1 & 2**64 - 1)))
        for start, end, flags, status in vmas
    ]
    return image(MM_MAGIC, message((1, 0x1000), (13, 7), *more, *areas))
