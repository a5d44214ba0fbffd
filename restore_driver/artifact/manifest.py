"""`manifest.json`: written last, it makes a directory an artifact. Its schema is versioned and closed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from restore_driver.artifact.digest import open_regular
from restore_driver.compat.fingerprint import Fingerprint
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import refuse_escaping
from restore_driver.proof.prove import ProofRecord
from restore_driver.validation_errors import where_and_why
from restore_driver.wire.replica_spec import ReplicaSpec

MANIFEST_NAME = "manifest.json"
IMAGES = "images"
"""Directory of CRIU's images within an artifact."""
MEMORY = "memory"
"""Directory of offloaded memory, which a restore fills in itself; absent if CRIU's images hold all of it."""
LARGEST_MANIFEST_BYTES = 16 << 20


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Closed):
    """One file of the artifact: path below it, size and BLAKE3 digest."""

    path: str
    size_bytes: Annotated[int, Field(ge=0)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("path")
    @classmethod
    def _stays_within(cls, value: str) -> str:
        try:
            refuse_escaping(value)
        except DriverError as error:
            raise ValueError(error.detail) from error
        return value


class ProcessTree(_Closed):
    """The dumped processes, with PIDs of their own pid namespace."""

    root_pid: int
    pids: tuple[int, ...]
    user_id: int
    shell_job: bool = False
    """The leader of its session was outside the tree."""
    external: dict[str, str] = {}
    """Standard streams that were pipes to processes outside the tree: descriptor -> CRIU's name of the pipe."""


class CudaTree(_Closed):
    """The processes that hold CUDA state."""

    pids: tuple[int, ...] = ()
    device_bytes: int = 0
    """Device memory that they held while serving; 0 where it is not known."""


class Manifest(_Closed):
    """The description of a snapshot, sufficient for a restore to decide before it touches anything."""

    schema_version: Literal[1, 2] = 2
    """Version 1 has no `memory` directory."""
    name: str
    created_unix_s: float
    fingerprint: Fingerprint
    process: ProcessTree
    cuda: CudaTree
    replica: ReplicaSpec
    proof: ProofRecord
    image_bytes: int
    """Size of CRIU's images as dumped."""
    compacted_bytes: int = 0
    """Bytes of it that compaction saved."""
    files: tuple[FileEntry, ...]

    @property
    def memory_bytes(self) -> int:
        """Bytes of the files below `memory/`: pages and their maps."""
        return self._below(MEMORY)

    @property
    def restored_bytes(self) -> int:
        """Bytes that a restore turns into memory."""
        return self._below(IMAGES) + self.memory_bytes

    def _below(self, directory: str) -> int:
        return sum(entry.size_bytes for entry in self.files if entry.path.startswith(f"{directory}/"))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the manifest as canonical JSON: sorted keys, so that equal manifests have equal digests."""
    return json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def manifest_digest(manifest: Manifest) -> str:
    """Return the BLAKE3 digest (64 hex digits) of the canonical JSON; it identifies the snapshot.

    It covers every file's digest.
    """
    return blake3(manifest_bytes(manifest)).hexdigest()


def load_manifest(artifact: Path) -> Manifest:
    """Read an artifact's manifest without reading its files.

    Raises:
        DriverError: MANIFEST_INVALID naming the field; NOT_TRUSTED if it is a link or not a regular file.
    """
    return parse_manifest(read_manifest_bytes(artifact), str(artifact / MANIFEST_NAME))


def digest_of_bytes(content: bytes) -> str:
    """Return the digest (64 hex digits) of a manifest by its content, without parsing it."""
    return blake3(content).hexdigest()


def read_manifest_bytes(artifact: Path) -> bytes:
    """Return the content of an artifact's manifest, up to one byte more than the largest that is valid.

    Raises:
        DriverError: MANIFEST_INVALID if it is missing; NOT_TRUSTED if it is a link or not a regular file.
    """
    try:
        directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(Reason.MANIFEST_INVALID, f"{artifact}: {error.strerror}", "give an artifact") from error
    try:
        with os.fdopen(open_regular(directory, MANIFEST_NAME), "rb") as file:
            content = file.read(LARGEST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise DriverError(
            Reason.MANIFEST_INVALID, f"{artifact} has no {MANIFEST_NAME}: {error.strerror}", _HINT
        ) from error
    finally:
        os.close(directory)
    return content


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Parse a manifest's JSON; `where` names the file in errors.

    Raises:
        DriverError: MANIFEST_INVALID naming the field.
    """
    if len(content) > LARGEST_MANIFEST_BYTES:
        raise DriverError(Reason.MANIFEST_INVALID, f"{where} is larger than {LARGEST_MANIFEST_BYTES:,} bytes", _HINT)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        field, why = where_and_why(error, "the file")
        raise DriverError(Reason.MANIFEST_INVALID, f"{where}: {field}: {why}", _HINT) from error


_HINT = "make the snapshot again, or stage it again"
