"""Compact a published artifact: replace it by a copy without zero pages, its large memory offloaded.

The copy takes the artifact's place by one rename; after a failure at any line the artifact is unchanged.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from restore_driver.artifact.manifest import IMAGES, MEMORY, manifest_digest
from restore_driver.artifact.publish import Draft
from restore_driver.artifact.seal import seal_as_it_is, verify
from restore_driver.capacity import require_free_disk
from restore_driver.criu.compact import Compaction, compact

_CHUNK_BYTES = 1 << 30
_FROM_THE_FILES = ("name", "files", "schema_version")


@dataclass(frozen=True)
class Compacted:
    """The artifact's digest after compaction, and what compaction did."""

    digest: str
    compaction: Compaction

    @property
    def replaced(self) -> bool:
        """False if there was nothing to save and the artifact is untouched."""
        return self.compaction.changed


def compact_artifact(artifact: Path) -> Compacted:
    """Verify an artifact, compact its images, and publish the result in its place, verified and sealed.

    Raises:
        DriverError: NOT_TRUSTED, MANIFEST_INVALID, DIGEST_MISMATCH for the artifact; DISK_FULL with it untouched.
    """
    before = verify(artifact)
    needed = sum(entry.size_bytes for entry in before.files)
    require_free_disk(artifact.parent, needed, "the copy needs")
    draft = Draft.open(artifact)
    try:
        for entry in before.files:
            _copy(artifact / entry.path, draft.path / entry.path)
        memory = None if before.process.shell_job else draft.path / MEMORY
        compaction = compact(draft.path / IMAGES, memory)
        if not compaction.changed:
            return Compacted(manifest_digest(before), compaction)
        about = {name: value for name, value in before if name not in _FROM_THE_FILES}
        after = draft.commit({**about, "compacted_bytes": before.compacted_bytes + compaction.saved_bytes})
        seal_as_it_is(artifact)
    finally:
        draft.close()
    return Compacted(manifest_digest(after), compaction)


def _copy(source: Path, target: Path) -> None:
    """Copy a file by copy_file_range(2), which shares blocks where the file system can.

    No hard link: it would change the source's ctime, and so break its seal.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with source.open("rb") as old, target.open("wb") as new:
        try:
            while os.copy_file_range(old.fileno(), new.fileno(), _CHUNK_BYTES):
                pass
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            shutil.copyfileobj(old, new, 1 << 20)
