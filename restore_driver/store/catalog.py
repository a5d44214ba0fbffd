"""List the snapshots of a store by name and digest, read from their manifests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from restore_driver.artifact.manifest import LARGEST_MANIFEST_BYTES, Manifest, digest_of_bytes, parse_manifest
from restore_driver.errors import DriverError, Reason
from restore_driver.store.backend import DIGEST_DIGITS, Backend, is_name, manifest_of, place_in, place_of

_AT_ONCE = 16


@dataclass(frozen=True)
class Snapshot:
    """One listed snapshot."""

    name: str
    digest: str
    """First digits of its manifest's digest."""
    created_unix_s: float
    bytes: int
    """Size of its files on a node."""
    stored_bytes: int
    """Size of all its objects in the store."""
    written_unix_s: float
    """Time when its manifest was written to the store."""

    @property
    def place(self) -> str:
        """The snapshot's name in the store, `<name>/<digest>`."""
        return f"{self.name}/{self.digest}"


@dataclass(frozen=True)
class Catalog:
    """A listing; `problems` has one sentence for each manifest that cannot be read."""

    snapshots: tuple[Snapshot, ...]
    """By name, the newest first."""
    problems: tuple[str, ...]


def read_catalog(backend: Backend, name: str = "") -> Catalog:
    """Return all snapshots of a store, or those of one name.

    Raises:
        DriverError: STORE_UNREACHABLE.
    """
    sizes: dict[str, int] = {}
    listed: dict[str, float] = {}
    for found in backend.walk(name):
        place = place_in(found.name)
        if place is None:
            continue
        sizes[place] = sizes.get(place, 0) + found.size_bytes
        if found.name == manifest_of(place):
            listed[place] = found.modified_unix_s

    def describe(place: str) -> Snapshot | str | None:
        try:
            manifest, _ = fetch_manifest(backend, place)
        except DriverError as error:
            if error.reason is Reason.STORE_UNREACHABLE:
                raise
            return None if error.reason is Reason.DIGEST_MISMATCH and "is missing" in error.detail else str(error)
        files_bytes = sum(entry.size_bytes for entry in manifest.files)
        name, digest = place.split("/")
        return Snapshot(name, digest, manifest.created_unix_s, files_bytes, sizes[place], listed[place])

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        answers = list(pool.map(describe, sorted(listed)))
    snapshots = [answer for answer in answers if isinstance(answer, Snapshot)]
    snapshots.sort(key=lambda each: (each.name, -each.created_unix_s, each.digest))
    return Catalog(tuple(snapshots), tuple(answer for answer in answers if isinstance(answer, str)))


def find(backend: Backend, name: str, digest: str | None) -> str:
    """Return the place of a snapshot; without a digest that of the most recently created one.

    Raises:
        DriverError: REQUEST_INVALID if there is none; STORE_UNREACHABLE.
    """
    if digest is not None:
        place = place_of(name, digest)
        if not any(found.name == manifest_of(place) for found in backend.walk(place)):
            raise DriverError(Reason.REQUEST_INVALID, f"{backend.url} has no snapshot {place}", _HINT)
        return place
    if not is_name(name):
        raise DriverError(Reason.REQUEST_INVALID, f"snapshot name {name!r} is not a plain file name", _HINT)
    catalog = read_catalog(backend, name)
    if not catalog.snapshots:
        why = f": {catalog.problems[0]}" if catalog.problems else ""
        raise DriverError(Reason.REQUEST_INVALID, f"{backend.url} has no snapshot {name!r}{why}", _HINT)
    return catalog.snapshots[0].place


def fetch_manifest(backend: Backend, place: str) -> tuple[Manifest, bytes]:
    """Return the manifest of a snapshot and its content, whose digest is part of the place's name.

    Raises:
        DriverError: DIGEST_MISMATCH if it is missing or belongs to another place; MANIFEST_INVALID.
    """
    where = f"{backend.url}/{manifest_of(place)}"
    content = read_small(backend, manifest_of(place), LARGEST_MANIFEST_BYTES)
    manifest = parse_manifest(content, where)
    name, digest = place.split("/")
    if short_digest(content) != digest or manifest.name != name:
        raise DriverError(Reason.DIGEST_MISMATCH, f"{where} is not the manifest of {place}", "push it again")
    return manifest, content


def read_small(backend: Backend, name: str, largest_bytes: int) -> bytes:
    """Return the content of an object, up to one byte more than `largest_bytes`."""
    content = bytearray()
    for chunk in backend.read(name):
        content += chunk
        if len(content) > largest_bytes:
            break
    return bytes(content[: largest_bytes + 1])


def short_digest(manifest: bytes) -> str:
    """Return the first digits of a manifest's digest, over its content: a later schema cannot change it."""
    return digest_of_bytes(manifest)[:DIGEST_DIGITS]


_HINT = "forethaw list STORE shows its snapshots"
