"""Carries out a retention plan, on a store or a node's directory of artifacts, and sweeps what unfinished work left.

Removal makes a snapshot unlisted first, by removing its manifest or by a rename to a hidden name. A prune that dies at
any line leaves each snapshot whole or unlisted, and the next one sweeps the rest. What is held when its turn comes
stays, whatever the plan said.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from restore_driver.artifact import manifest as manifests
from restore_driver.artifact import publish
from restore_driver.artifact import read_lock as hold
from restore_driver.artifact.seal import SUFFIX, seal_path
from restore_driver.errors import DriverError, Reason
from restore_driver.store.backend import Backend
from restore_driver.store.catalog import digest_of, read_catalog
from restore_driver.store.removal import GONE, put_away, sweep_away
from restore_driver.store.retention import Kept, RetentionPolicy, decide
from restore_driver.store.staging import PREFIX as STAGING

GRACE_S = 24 * 3600.0
"""How old unfinished pushes and stages must be: they may be resumed until then."""
HELD = "held by a reader, such as a restore"


class Shelf(Protocol):
    """Something that holds snapshots."""

    def snapshots(self) -> tuple[list[Kept], list[str]]:
        """All that are listed, and what couldn't be read."""

    def remove(self, place: str) -> None:
        """Removes one.

        Raises:
            DriverError: BUSY while it is held.
        """

    def sweep(self, before_unix_s: float, *, only_look: bool) -> list[str]:
        """Removes what unfinished work left before that time."""


class StoreShelf:
    """A store."""

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
                held=self._backend.is_held(each.place),
            )
            for each in catalog.snapshots
        ]
        return kept, list(catalog.problems)

    def remove(self, place: str) -> None:
        """See `Shelf`."""
        self._backend.retire(place)

    def sweep(self, before_unix_s: float, *, only_look: bool) -> list[str]:
        """See `Shelf`."""
        return list(self._backend.sweep(before_unix_s, only_look=only_look))


class NodeShelf:
    """A node's directory of artifacts: `DIRECTORY/<artifact>/manifest.json`, the seals beside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    def snapshots(self) -> tuple[list[Kept], list[str]]:
        """See `Shelf`."""
        kept, problems = [], []
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith(".") or path.is_symlink() or not (path / manifests.NAME).is_file():
                continue
            try:
                content = manifests.read(path)
                manifest = manifests.parse(content, str(path / manifests.NAME))
            except DriverError as error:
                problems.append(str(error))
                continue
            kept.append(
                Kept(
                    place=str(path),
                    name=manifest.name,
                    digest=digest_of(content),
                    created_unix_s=manifest.created_unix_s,
                    bytes=sum(entry.size_bytes for entry in manifest.files),
                    held=hold.is_held(path),
                )
            )
        return kept, problems

    def remove(self, place: str) -> None:
        """See `Shelf`."""
        put_away(Path(place))
        seal_path(Path(place)).unlink(missing_ok=True)

    def sweep(self, before_unix_s: float, *, only_look: bool) -> list[str]:
        """See `Shelf`."""
        swept = sweep_away(self._directory.glob(f"{STAGING}*"), before_unix_s, only_look=only_look)
        swept += sweep_away(self._directory.glob(f"{GONE}*"), None, only_look=only_look)
        swept += sweep_away(self._directory.glob(f"{publish.PREFIX}*"), None, only_look=only_look)
        for seal in sorted(self._directory.glob(f"*{SUFFIX}")):
            if seal.with_name(seal.name.removesuffix(SUFFIX)).exists():
                continue
            with suppress(FileNotFoundError):
                if seal.stat().st_mtime < before_unix_s:
                    if not only_look:
                        seal.unlink()
                    swept.append(seal)
        return [str(path) for path in swept]


@dataclass
class Pruned:
    """What a prune did, or would do."""

    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    over_quota_bytes: int = 0
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def prune(
    shelves: Sequence[Shelf],
    policy: RetentionPolicy,
    now_unix_s: float,
    grace_s: float = GRACE_S,
    *,
    dry_run: bool = False,
) -> Pruned:
    """Decides over all shelves together, removes, sweeps.

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
    done.kept += [_told(each, HELD if each.held else "") for each in plan.stays]
    for removal in plan.removals:
        try:
            if not dry_run:
                where[removal.snapshot.place].remove(removal.snapshot.place)
        except DriverError as error:
            if error.reason is not Reason.BUSY:
                raise
            done.kept.append(_told(removal.snapshot, HELD))
            continue
        done.removed.append(_told(removal.snapshot, removal.reason))
        done.freed_bytes += removal.snapshot.bytes
    for shelf in shelves:
        done.swept += shelf.sweep(now_unix_s - grace_s, only_look=dry_run)
    return done


def _told(snapshot: Kept, reason: str) -> dict[str, Any]:
    return {**asdict(snapshot), "reason": reason or "the policy lets it stay"}
