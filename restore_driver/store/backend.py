"""What a store must offer; `local.py` and `objects.py` do.

Names are paths below the store with `/` between their parts. A snapshot is named by its place, `<name>/<digest>`.
Every method raises DriverError: STORE_UNREACHABLE when the store doesn't answer within its patience or refuses,
DIGEST_MISMATCH when it lacks an object that should be there, DISK_FULL, NOT_TRUSTED for a name that leads out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from restore_driver.artifact.manifest import NAME as MANIFEST
from restore_driver.errors import DriverError, Reason

Write = Callable[[bytes], None]
DIGEST_DIGITS = 16
"""Digits of the manifest's digest in a place: 64 bits tell a store's snapshots apart, the manifest is checked whole."""


@dataclass(frozen=True)
class StoredObject:
    """One object as a listing tells of it."""

    name: str
    size_bytes: int
    modified_unix_s: float


class Backend(Protocol):
    """One store; used by several threads at once."""

    url: str

    def walk(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects below a directory of names; what is being uploaded or removed is not among them."""

    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of an object from `start` to before `end`, as they come."""

    def write(self, name: str, size_bytes: int) -> AbstractContextManager[Write]:
        """A new object, there as a whole when the block ends well and not at all if it raises.

        `size_bytes` is the most that may come.
        """

    def remove(self, name: str) -> None:
        """One object; none of that name is no error."""

    def uploading(self, place: str) -> AbstractContextManager[str]:
        """Where the objects of a snapshot are to be written; what an earlier push left is still there.

        Raises:
            DriverError: BUSY while another uploads there, where the store can tell.
        """

    def publish(self, place: str, manifest: bytes) -> None:
        """Writes the manifest, within `uploading`: from now on the snapshot is listed."""

    def reading(self, place: str) -> AbstractContextManager[None]:
        """Holds a snapshot while it is read, where the store can; see `artifact/hold.py`."""

    def is_held(self, place: str) -> bool:
        """Whether somebody holds it."""

    def retire(self, place: str) -> None:
        """Removes a snapshot: first it isn't listed any more, then its objects go.

        Raises:
            DriverError: BUSY while somebody holds it.
        """

    def sweep(self, before_unix_s: float, *, only_look: bool) -> tuple[str, ...]:
        """Removes what is not listed and was last written before that time; returns what that is."""


def place_of(name: str, digest: str) -> str:
    """Where a snapshot lies.

    Raises:
        DriverError: REQUEST_INVALID naming the part that can be none of a path.
    """
    if not is_name(name):
        raise DriverError(
            Reason.REQUEST_INVALID, f"snapshot name {name!r} is no plain file name", "checkpoint under another name"
        )
    if not re.fullmatch(r"[0-9a-f]{16,64}", digest):
        raise DriverError(Reason.REQUEST_INVALID, f"digest {digest!r} is not 16 to 64 hex digits", "see forethaw list")
    return f"{name}/{digest[:DIGEST_DIGITS]}"


def is_name(text: str) -> bool:
    """Whether a text may name a snapshot: one part of a path, not hidden, nothing unprintable."""
    return 0 < len(text.encode()) <= 200 and not text.startswith(".") and "/" not in text and text.isprintable()


def place_in(object_name: str) -> str | None:
    """The place of the snapshot that an object belongs to; None for what isn't ours."""
    parts = object_name.split("/")
    if len(parts) < 3 or not is_name(parts[0]) or not re.fullmatch(r"[0-9a-f]{16}", parts[1]):
        return None
    return f"{parts[0]}/{parts[1]}"


def manifest_of(place: str) -> str:
    """Name of the object that makes a snapshot listed."""
    return f"{place}/{MANIFEST}"


def missing(where: str) -> DriverError:
    """What is raised for an object that should be there."""
    return DriverError(Reason.DIGEST_MISMATCH, f"{where} is missing", "it was pruned, or never whole: push it again")
