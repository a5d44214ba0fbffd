"""Remove snapshots of a store or a node's directory by a retention plan, and sweep unfinished pushes and stages.

A removal first unlists a snapshot, by removing its manifest or by a rename to a hidden name. A prune that is killed at
any line leaves each snapshot whole or unlisted, and the next one sweeps the rest. A snapshot that is locked when it
should be removed is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from restore_driver.artifact import publish
from restore_driver.artifact.manifest import MANIFEST_NAME, parse_manifest, read_manifest_bytes
from restore_driver.artifact.read_lock import is_locked
from restore_driver.artifact.seal import SUFFIX, seal_path
from restore_driver.errors import DriverError, Reason
from restore_driver.store.backend import Backend
from restore_driver.store.catalog import read_catalog, short_digest
from restore_driver.store.removal import GONE, put_away, sweep_away
from restore_driver.store.retention import Kept, RetentionPolicy, decide
from restore_driver.store.staging import PREFIX as STAGING

GRACE_S = 24 * 3600.0
"""Age from which unfinished pushes and stages are swept: they may be resumed until then."""
LOCKED = "locked by a reader, such as a restore"
"""Reason of a snapshot that stays because it is read, pushed or staged."""


class Shelf(Protocol):
    """A store or a node's directory, as pruning uses it. Every method raises STORE_UNREACHABLE if it cannot be read."""

    def snapshots(self) -> tuple[list[Kept], list[str]]:
        """Return all listed snapshots, and one sentence for each that cannot be read."""

    def remove(self, place: str) -> None:
        """Remove one snapshot.

        Raises:
            DriverError: BUSY while it is locked.
        """

    def sweep(self, before_unix_s: float, *, dry_run: bool) -> list[str]:
        """Remove what unfinished work left before that time (not with `dry_run`) and return its paths."""


class StoreShelf:
    """The shelf of a store."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def snapshots(self) -> tuple[list[Kept], list[str]]:
        """See `Shelf`."""
        catalog = read_catalog(self._backend)
        kept = [
            Kept(
                place=each.place,
                name=each.name,
                digest=each.digest,
                created_unix_s=each.created_unix_s,
                bytes=each.stored_bytes,
                locked=self._backend.is_locked(each.place),
            )
            for each in catalog.snapshots
        ]
        return kept, list(catalog.problems)

    def remove(self, place: str) -> None:
        """See `Shelf`."""
        self._backend.retire(place)

    def sweep(self, before_unix_s: float, *, dry_run: bool) -> list[str]:
        """See `Shelf`."""
        return list(self._backend.sweep(before_unix_s, dry_run=dry_run))


class NodeShelf:
    """The shelf of a node's directory of artifacts: `DIRECTORY/<artifact>/manifest.json`, the seals beside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    def snapshots(self) -> tuple[list[Kept], list[str]]:
        """See `Shelf`."""
        kept, problems = [], []
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith(".") or path.is_symlink() or not (path / MANIFEST_NAME).is_file():
                continue
            try:
                content = read_manifest_bytes(path)
                manifest = parse_manifest(content, str(path / MANIFEST_NAME))
            except DriverError as error:
                problems.append(str(error))
                continue
            kept.append(
                Kept(
                    place=str(path),
                    name=manifest.name,
                    digest=short_digest(content),
                    created_unix_s=manifest.created_unix_s,
                    bytes=sum(entry.size_bytes for entry in manifest.files),
                    locked=is_locked(path),
                )
            )
        return kept, problems

    def remove(self, place: str) -> None:
        """See `Shelf`."""
        put_away(Path(place))
        seal_path(Path(place)).unlink(missing_ok=True)

    def sweep(self, before_unix_s: float, *, dry_run: bool) -> list[str]:
        """See `Shelf`."""
        swept = sweep_away(self._directory.glob(f"{STAGING}*"), before_unix_s, dry_run=dry_run)
        swept += sweep_away(self._directory.glob(f"{GONE}*"), None, dry_run=dry_run)
        swept += sweep_away(self._directory.glob(f"{publish.PREFIX}*"), None, dry_run=dry_run)
        for seal in sorted(self._directory.glob(f"*{SUFFIX}")):
            if seal.with_name(seal.name.removesuffix(SUFFIX)).exists():
                continue
            with suppress(FileNotFoundError):
                if seal.stat().st_mtime < before_unix_s:
                    if not dry_run:
                        seal.unlink()
                    swept.append(seal)
        return [str(path) for path in swept]


@dataclass
class Pruned:
    """The effects of a prune; with `dry_run` those that it would have."""

    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    over_quota_bytes: int = 0
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the members of its JSON."""
        return asdict(self)


def prune(
    shelves: Sequence[Shelf],
    policy: RetentionPolicy,
    now_unix_s: float,
    grace_s: float = GRACE_S,
    *,
    dry_run: bool = False,
) -> Pruned:
    """Decide over all shelves together, remove, and sweep unfinished work older than `grace_s`.

    Raises:
        DriverError: STORE_UNREACHABLE.
    """
    done = Pruned(dry_run=dry_run)
    where: dict[str, Shelf] = {}
    snapshots: list[Kept] = []
    for shelf in shelves:
        found, problems = shelf.snapshots()
        snapshots += found
        done.problems += problems
        where |= {each.place: shelf for each in found}
    plan = decide(snapshots, policy, now_unix_s)
    done.over_quota_bytes = plan.over_quota_bytes
    done.kept += [_entry(each, LOCKED if each.locked else "") for each in plan.stays]
    for removal in plan.removals:
        try:
            if not dry_run:
                where[removal.snapshot.place].remove(removal.snapshot.place)
        except DriverError as error:
            if error.reason is not Reason.BUSY:
                raise
            done.kept.append(_entry(removal.snapshot, LOCKED))
            continue
        done.removed.append(_entry(removal.snapshot, removal.reason))
        done.freed_bytes += removal.snapshot.bytes
    for shelf in shelves:
        done.swept += shelf.sweep(now_unix_s - grace_s, dry_run=dry_run)
    return done


def _entry(snapshot: Kept, reason: str) -> dict[str, Any]:
    return {**asdict(snapshot), "reason": reason or "kept by the policy"}
