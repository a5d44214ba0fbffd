"""Pass records as text: canonical JSON, so that equal records are equal bytes, and back.

Frozen dataclasses, enums, keys, arrays and the containers between them are written by their own shape: a dataclass as
`{"is": name, "of": [fields in order]}`, a mapping as sorted pairs (keys may be dataclasses), an array as its type,
shape and base64 bytes. Only the types listed here are read: a record is data, and reading one runs nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from autoscaler import outcomes
from autoscaler.acting.modes import Mode
from autoscaler.ports import ClusterView, PassRecord
from policies import actions, contract, keys, paths, reasons, types
from policies.baselines.hpa import HpaMemory
from policies.baselines.knative import KnativeMemory
from policies.decide import ForethawMemory
from policies.leadtime import LeadTime


def to_json(record: PassRecord) -> str:
    """Return the record as one line of canonical JSON. TypeError for a type that records do not hold."""
    return json.dumps(_written(record), separators=(",", ":"), sort_keys=True, allow_nan=True)


def from_json(line: str) -> PassRecord:
    """Return the record that `line` holds. ValueError for anything that is not a whole record."""
    try:
        record = _read(json.loads(line))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"this is no pass record: {type(error).__name__}: {error}") from error
    if not isinstance(record, PassRecord):
        raise ValueError(f"this is a {type(record).__name__}, not a pass record")  # noqa: TRY004 - the text is at fault
    return record


_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        PassRecord,
        ClusterView,
        keys.TargetKey,
        keys.SnapshotKey,
        paths.DemandPaths,
        reasons.Reason,
        actions.Action,
        contract.Violation,
        LeadTime,
        types.TierSpec,
        types.SupplyStep,
        types.PoolSpec,
        types.TargetSpec,
        types.ReplicaView,
        types.TargetObservation,
        types.NodeObservation,
        types.DecisionInput,
        types.TargetPlan,
        types.Plan,
        types.Decision,
        outcomes.Done,
        outcomes.InFlight,
        outcomes.Refused,
        outcomes.Failed,
        outcomes.Conflict,
        outcomes.Unknown,
        HpaMemory,
        KnativeMemory,
        ForethawMemory,
    )
}
_ENUMS: dict[str, type[Enum]] = {e.__name__: e for e in (types.Phase, actions.ActionKind, reasons.ReasonCode, Mode)}


def _written(value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return {"is": type(value).__name__, "value": value.value}
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        return {"is": "array", "type": array.dtype.str, "shape": array.shape, "bytes": _base64(array)}
    if isinstance(value, keys.TargetKey | keys.SnapshotKey):
        return {"is": type(value).__name__, "of": [_written(v) for v in value]}
    if isinstance(value, tuple | list):
        return [_written(v) for v in value]
    if isinstance(value, frozenset):
        return {"is": "set", "of": sorted((_written(v) for v in value), key=json.dumps)}
    if isinstance(value, Mapping):
        return {"is": "map", "of": [[_written(k), _written(v)] for k, v in sorted(value.items())]}
    if type(value).__name__ in _CLASSES and dataclasses.is_dataclass(value):
        fields = [_written(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init]
        return {"is": type(value).__name__, "of": fields}
    raise TypeError(f"records hold no {type(value).__name__}: {value!r}")


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _read(value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    if isinstance(value, list):
        return tuple(_read(v) for v in value)
    if not isinstance(value, dict):
        return value
    kind = value["is"]
    if kind == "array":
        array = np.frombuffer(base64.b64decode(value["bytes"]), np.dtype(value["type"]))
        return array.reshape(value["shape"])
    if kind == "set":
        return frozenset(_read(v) for v in value["of"])
    if kind == "map":
        return {_read(k): _read(v) for k, v in value["of"]}
    if kind in _ENUMS:
        return _ENUMS[kind](value["value"])
    return _CLASSES[kind](*(_read(v) for v in value["of"]))
