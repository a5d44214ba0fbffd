"""The port of a store, implemented by `local.py` and `objects.py`, and the names of its objects.

Names are paths below the store with `/` between their parts. A snapshot is named by its place, `<name>/<digest>`.
Every method raises DriverError: STORE_UNREACHABLE if the store does not answer within its patience or refuses,
DIGEST_MISMATCH if it lacks an object that should exist, DISK_FULL, NOT_TRUSTED for a name that leads out of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from restore_driver.artifact.manifest import MANIFEST_NAME
from restore_driver.errors import DriverError, Reason

Write = Callable[[bytes], None]
DIGEST_DIGITS = 16
"""Digits of the manifest's digest in a place: 64 bits identify a store's snapshots, the manifest is checked whole."""


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing."""

    name: str
    size_bytes: int
    modified_unix_s: float


class Backend(Protocol):
    """One store; its methods may be called from several threads at once."""

    url: str

    def walk(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield all objects below a prefix of names, except those of snapshots being uploaded or removed."""

    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of an object from `start` to before `end` (None: its end) as they arrive."""

    def write(self, name: str, size_bytes: int) -> AbstractContextManager[Write]:
        """Write a new object of at most `size_bytes`: whole when the block ends, absent if it raises."""

    def remove(self, name: str) -> None:
        """Remove one object; a name that does not exist is no error."""

    def uploading(self, place: str) -> AbstractContextManager[str]:
        """Return the prefix for the objects of a snapshot; objects of an interrupted push are still there.

        Raises:
            DriverError: BUSY while another process uploads there, if the store has locks.
        """

    def publish(self, place: str, manifest: bytes) -> None:
        """Write the manifest, within `uploading`; from then on the snapshot is listed."""

    def reading(self, place: str) -> AbstractContextManager[None]:
        """Lock a snapshot against removal while it is read, if the store has locks; see `artifact/read_lock.py`."""

    def is_locked(self, place: str) -> bool:
        """Return True while another process reads, uploads or removes it; False if the store has no locks."""

    def retire(self, place: str) -> None:
        """Remove a snapshot: first unlist it, then remove its objects.

        Raises:
            DriverError: BUSY while it is locked.
        """

    def sweep(self, before_unix_s: float, *, dry_run: bool) -> tuple[str, ...]:
        """Remove what is not listed and was last written before that time (not with `dry_run`); return its places."""


def place_of(name: str, digest: str) -> str:
    """Return the place of a snapshot, `<name>/<first digits of its digest>`.

    Raises:
        DriverError: REQUEST_INVALID naming the part that cannot be part of a path.
    """
    if not is_name(name):
        raise DriverError(
            Reason.REQUEST_INVALID, f"snapshot name {name!r} is not a plain file name", "checkpoint under another name"
        )
    if not re.fullmatch(r"[0-9a-f]{16,64}", digest):
        raise DriverError(Reason.REQUEST_INVALID, f"digest {digest!r} is not 16 to 64 hex digits", "see forethaw list")
    return f"{name}/{digest[:DIGEST_DIGITS]}"


def is_name(text: str) -> bool:
    """Return True if a text may name a snapshot: one part of a path, not hidden, printable, at most 200 bytes."""
    return 0 < len(text.encode()) <= 200 and not text.startswith(".") and "/" not in text and text.isprintable()


def place_in(object_name: str) -> str | None:
    """Return the place of the snapshot that an object belongs to; None for objects of no snapshot."""
    parts = object_name.split("/")
    if len(parts) < 3 or not is_name(parts[0]) or not re.fullmatch(r"[0-9a-f]{16}", parts[1]):
        return None
    return f"{parts[0]}/{parts[1]}"


def manifest_of(place: str) -> str:
    """Return the name of the object whose presence lists a snapshot."""
    return f"{place}/{MANIFEST_NAME}"


def missing(where: str) -> DriverError:
    """Return the error for an object that should exist."""
    return DriverError(Reason.DIGEST_MISMATCH, f"{where} is missing", "it was pruned or is incomplete: push it again")
