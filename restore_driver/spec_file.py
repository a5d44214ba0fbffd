"""Read a replica spec from a TOML or JSON file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from pydantic import ValidationError

from restore_driver.errors import DriverError, Reason
from restore_driver.validation_errors import shown_value, where_and_why
from restore_driver.wire.replica_spec import ReplicaSpec


def load_replica_spec(path: Path) -> ReplicaSpec:
    """Read a spec from TOML, or from JSON when the file's name ends in `.json`.

    Raises:
        DriverError: REQUEST_INVALID naming file, field, value and hint.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DriverError(Reason.REQUEST_INVALID, f"{path}: {why}", "give a file that can be read") from error
    try:
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DriverError(Reason.REQUEST_INVALID, f"{path}: {error}", "write it as TOML, or name it .json") from error
    try:
        return ReplicaSpec.model_validate(content)
    except ValidationError as error:
        where, why = where_and_why(error, "the spec")
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"{path}: {where} is {shown_value(error)}: {why}",
            "examples/counter_server.toml shows a whole one",
        ) from error
