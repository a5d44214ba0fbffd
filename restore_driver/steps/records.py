"""What is known of a parked replica: one file each, which outlives the driver that parked it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.tools import State


def record_path(state: State, pid: int) -> Path:
    """Where a parked replica's record lies."""
    return state.parked / f"{pid}.json"


def write_record(state: State, pid: int, record: dict[str, Any]) -> None:
    """One rename, so that a record is whole or not there."""
    path = record_path(state, pid)
    path.with_suffix(".new").write_text(json.dumps(record))
    os.replace(path.with_suffix(".new"), path)


def read_record(state: State, pid: int) -> dict[str, Any]:
    """The record of a parked replica.

    Raises:
        DriverError: REQUEST_INVALID when the process is not parked.
    """
    try:
        record: dict[str, Any] = json.loads(record_path(state, pid).read_text())
    except FileNotFoundError:
        raise DriverError(Reason.REQUEST_INVALID, f"process {pid} is not parked", "park it first") from None
    return record


def forget_record(state: State, pid: int) -> None:
    """The replica is awake, or dead."""
    record_path(state, pid).unlink(missing_ok=True)


def is_parked(state: State, pid: int) -> bool:
    """Whether this very process is parked; the record of another that had its PID says nothing."""
    try:
        return proc.is_same(pid, read_record(state, pid)["start_ticks"])
    except DriverError:
        return False
