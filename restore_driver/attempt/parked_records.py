"""Records of parked replicas: one file each, which outlives the driver that parked it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.atomic import write_atomically
from restore_driver.proof.prove import ProofRecord
from restore_driver.state_directory import StateDirectory
from restore_driver.validation_errors import where_and_why
from restore_driver.wire.replica_spec import ReplicaSpec


class ParkedRecord(BaseModel):
    """What `unpark` must know of a parked replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    start_ticks: int
    replica: ReplicaSpec
    proof: ProofRecord
    cuda_pids: tuple[int, ...]
    device_bytes: int
    """GPU memory that it held while it served; 0 where it is not known."""
    gpus: tuple[str, ...]
    """UUIDs of the GPUs that it was parked from."""


def record_path(state: StateDirectory, pid: int) -> Path:
    """Return the path of a parked replica's record."""
    return state.parked / f"{pid}.json"


def write_record(state: StateDirectory, record: ParkedRecord) -> None:
    """Write a record atomically, so that it is whole or not there.

    Raises:
        OSError: it could not be written.
    """
    write_atomically(record_path(state, record.pid), record.model_dump_json().encode())


def read_record(state: StateDirectory, pid: int) -> ParkedRecord:
    """Return the record of a parked replica.

    Raises:
        DriverError: REQUEST_INVALID when the process is not parked, or its record is not one of this release.
    """
    path = record_path(state, pid)
    try:
        return ParkedRecord.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise DriverError(Reason.REQUEST_INVALID, f"process {pid} is not parked", "park it first") from None
    except ValidationError as error:
        field, why = where_and_why(error, "the file")
        raise DriverError(
            Reason.REQUEST_INVALID, f"{path}: {field}: {why}", "end the replica and restore its snapshot"
        ) from error


def forget_record(state: StateDirectory, pid: int) -> None:
    """Remove a record: the replica is awake, or dead. Without a record do nothing."""
    record_path(state, pid).unlink(missing_ok=True)


def is_parked(state: StateDirectory, pid: int) -> bool:
    """Return True if this very process is parked; the record of another one that had its PID does not count.

    Raises:
        DriverError: REQUEST_INVALID for a record that cannot be read.
    """
    return record_path(state, pid).exists() and proc.is_same(pid, read_record(state, pid).start_ticks)
