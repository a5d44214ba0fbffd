"""A book's records as JSON, so that a controller resumes with what it had learnt.

One object: `version`, `targets` as [namespace, name], and `keys`, each with the index of its target (null
for what is shared), path, node class and rows. A row is [target index or null, outcome, elapsed_s, replica,
at_s, gpus_per_replica, weights_bytes], oldest first. Floats are written so that they are read back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoscaler.leadtimes.observation import StartObservation, StartOutcome
from autoscaler.leadtimes.records import Records
from policies.keys import TargetKey

AllRecords = Mapping[TargetKey | None, Mapping[tuple[str, str], Records]]
Index = Annotated[int, Field(ge=0)]
"""Of a target in `targets`; a negative one would quietly count from the end."""
Row = tuple[Index | None, StartOutcome, float, str, float, int, int]


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid")

    target: Index | None
    path: str
    node_class: str
    rows: list[Row]


class _Book(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    targets: list[tuple[str, str]]
    keys: list[_Key]


def to_json(records: AllRecords) -> str:
    """Equal records give equal texts, whatever order they were observed in."""
    targets = sorted({r.target for _, _, kept in _each(records) for r in _rows(kept) if r.target is not None})
    index: dict[TargetKey | None, int | None] = {None: None, **{t: i for i, t in enumerate(targets)}}
    keys = [
        {
            "target": index[owner],
            "path": path,
            "node_class": node_class,
            "rows": [
                (index[r.target], r.outcome, r.elapsed_s, r.replica, r.at_s, r.gpus_per_replica, r.weights_bytes)
                for r in _rows(kept)
            ],
        }
        for owner, (path, node_class), kept in sorted(_each(records), key=lambda e: (str(e[0]), e[1]))
    ]
    named = [(t.namespace, t.name) for t in targets]
    return json.dumps({"version": 1, "targets": named, "keys": keys}, separators=(",", ":"))


def from_json(text: str) -> AllRecords:
    """Records of `to_json`; raises ValueError, with field, problem and hint, for any other text."""
    try:
        book = _Book.model_validate_json(text)
        targets = [TargetKey(*t) for t in book.targets]
        records: dict[TargetKey | None, dict[tuple[str, str], Records]] = {}
        for key in book.keys:
            rows = (_observation(key, row, targets) for row in key.rows)
            owner = None if key.target is None else targets[key.target]
            records.setdefault(owner, {})[key.path, key.node_class] = Records().join(rows)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "text"
        raise ValueError(f"{field}: {first['msg']}; start from an empty book") from error
    except IndexError as error:
        raise ValueError("keys: a target's index is beyond targets; start from an empty book") from error
    return records


def _observation(key: _Key, row: Row, targets: list[TargetKey]) -> StartObservation:
    index, outcome, elapsed_s, replica, at_s, gpus_per_replica, weights_bytes = row
    target = None if index is None else targets[index]
    return StartObservation(
        target, key.path, key.node_class, outcome, elapsed_s, replica, at_s, gpus_per_replica, weights_bytes
    )


def _each(records: AllRecords) -> Iterator[tuple[TargetKey | None, tuple[str, str], Records]]:
    for owner, held in records.items():
        for path, kept in held.items():
            yield owner, path, kept


def _rows(kept: Records) -> tuple[StartObservation, ...]:
    return (*kept.ended, *kept.pending)
