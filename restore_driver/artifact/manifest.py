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

NAME = "manifest.json"
IMAGES = "images"
"""Directory of CRIU's images within an artifact."""
MEMORY = "memory"
"""Directory of the memory that a restore fills in beside CRIU; not there when all is CRIU's."""
LARGEST_BYTES = 16 << 20


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
    """What was dumped, with PIDs as its own pid namespace numbers them."""

    root_pid: int
    pids: tuple[int, ...]
    user_id: int
    shell_job: bool = False
    """Its session's leader was outside the tree."""
    external: dict[str, str] = {}
    """Standard streams that were pipes to somebody outside: descriptor -> CRIU's name of it."""


class CudaTree(_Closed):
    """Which of the processes hold CUDA state."""

    pids: tuple[int, ...] = ()
    device_bytes: int = 0
    """Device memory that they held while they served; 0 where nobody told."""


class Manifest(_Closed):
    """All that a restore needs to know before it touches anything."""

    schema_version: Literal[1, 2] = 2
    """Version 1 knows no `memory`."""
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
    """How much of it compaction saved."""
    files: tuple[FileEntry, ...]

    @property
    def memory_bytes(self) -> int:
        """Of the files below `memory/`: pages, and a little of their maps."""
        return self._below(MEMORY)

    @property
    def restored_bytes(self) -> int:
        """What a restore turns into memory."""
        return self._below(IMAGES) + self.memory_bytes

    def _below(self, directory: str) -> int:
        return sum(entry.size_bytes for entry in self.files if entry.path.startswith(f"{directory}/"))


def to_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, so that equal manifests have equal digests."""
    return json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def digest(manifest: Manifest) -> str:
    """BLAKE3 of the canonical JSON: names the snapshot, since it covers every file's digest."""
    return blake3(to_bytes(manifest)).hexdigest()


def load(artifact: Path) -> Manifest:
    """Reads an artifact's manifest; its files are not looked at.

    Raises:
        DriverError: MANIFEST_INVALID naming the field; NOT_TRUSTED when it is a link or no regular file.
    """
    return parse(read(artifact), str(artifact / NAME))


def digest_of(content: bytes) -> str:
    """`digest` of the manifest that has this content, without parsing it."""
    return blake3(content).hexdigest()


def read(artifact: Path) -> bytes:
    """The bytes of an artifact's manifest.

    Raises:
        DriverError: MANIFEST_INVALID; NOT_TRUSTED when it is a link or no regular file.
    """
    try:
        directory = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(Reason.MANIFEST_INVALID, f"{artifact}: {error.strerror}", "give an artifact") from error
    try:
        with os.fdopen(open_regular(directory, NAME), "rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise DriverError(Reason.MANIFEST_INVALID, f"{artifact} has no {NAME}: {error.strerror}", _MEND) from error
    finally:
        os.close(directory)
    return content


def parse(content: bytes, where: str) -> Manifest:
    """A manifest from its JSON.

    Raises:
        DriverError: MANIFEST_INVALID naming the field.
    """
    if len(content) > LARGEST_BYTES:
        raise DriverError(Reason.MANIFEST_INVALID, f"{where} is larger than {LARGEST_BYTES:,} bytes", _MEND)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        field, why = where_and_why(error, "the file")
        raise DriverError(Reason.MANIFEST_INVALID, f"{where}: {field}: {why}", _MEND) from error


_MEND = "make the snapshot anew, or stage it again"
