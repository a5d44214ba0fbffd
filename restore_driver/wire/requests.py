"""What a client may request: the same models for the library, the agent's socket and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from restore_driver.wire.phase import Phase
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.version import API_VERSION, ApiVersion, refuse_unknown_version

_PHASES = frozenset(phase.value for phase in Phase)


class Request(BaseModel):
    """Fields that every request has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_version: ApiVersion = API_VERSION
    deadlines_s: dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]] = {}
    """Seconds by phase name, overriding the sequence's own deadlines."""

    @field_validator("deadlines_s")
    @classmethod
    def _phases_exist(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(value) - _PHASES)
        if unknown:
            raise ValueError(f"there is no phase {unknown[0]!r}; the phases are {', '.join(sorted(_PHASES))}")
        return value


class CheckpointRequest(Request):
    """Dump a live replica into an artifact."""

    do: Literal["checkpoint"] = "checkpoint"
    pid: Annotated[int, Field(gt=1)]
    """The replica's first process, as this pid namespace numbers it; its descendants go with it."""
    artifact: Path
    replica: ReplicaSpec
    leave_running: bool = True
    compact: bool = True
    image_digest: str | None = None
    engine_arguments: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    """UUIDs of the replica's GPUs in its own order; default: all of this machine's."""
    holder: Path | None = None
    """Socket of the weights holder, if its path here differs from the one in the replica's mount namespace."""


class RestoreRequest(Request):
    """Restore an artifact into a placeholder."""

    do: Literal["restore"] = "restore"
    artifact: Path
    placeholder_pid: Annotated[int, Field(gt=1)]
    """PID 1 of the placeholder, as this pid namespace numbers it."""
    pod_uid: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")] | None = None
    """UID of the pod that is restored into; with the snapshot it keys the attempt. Default: the placeholder itself."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the placeholder's GPUs in its own order; default: the machine's, as many as the snapshot had."""
    holder: Path | None = None
    """Socket of the weights holder, where the engine takes its weights from one."""
    image_digest: str | None = None
    engine: str | None = None
    """Expected kind of the engine (`vllm`, ...); a snapshot with another one is refused."""
    engine_arguments: tuple[str, ...] | None = None
    """Expected arguments of the engine; default: those of the snapshot."""
    restored_huge_pages: bool = False
    """Set transparent huge pages to `always` while CRIU restores; system-wide, and put back afterwards."""
    verify: bool = False
    """Verify every digest again instead of checking the seal."""


class ParkRequest(Request):
    """Move the CUDA state of a live replica into host memory."""

    do: Literal["park"] = "park"
    pid: Annotated[int, Field(gt=1)]
    replica: ReplicaSpec
    holder: Path | None = None
    """Socket of the weights holder, if its path here differs from the one in the replica's mount namespace."""
    huge_pages: bool = False
    """Set transparent huge pages to `always` while CUDA allocates the host memory for the GPU's content; system-wide,
    and put back afterwards."""


class UnparkRequest(Request):
    """Wake a parked replica."""

    do: Literal["unpark"] = "unpark"
    pid: Annotated[int, Field(gt=1)]
    holder: Path | None = None


def _check_version_first(value: Any) -> Any:
    """Refuse another version by its name, rather than by the first field or `do` in which it differs."""
    if isinstance(value, Mapping) and isinstance(value.get("api_version"), str):
        refuse_unknown_version(value["api_version"])
    return value


AnyRequest = Annotated[
    Annotated[CheckpointRequest | RestoreRequest | ParkRequest | UnparkRequest, Field(discriminator="do")],
    BeforeValidator(_check_version_first),
]
"""Any request, selected by `do`; validate it with `TypeAdapter(AnyRequest)`."""
