"""Token lengths: as quantiles by client (rates), or as the rows of a record (arrivals, counts).

Both know the first and second moments of what they make, which the informed bound needs, and fill
the tokens of sorted keys through `kernels.py`. A request's prompt and output come from one row of a
record, or, for quantiles, from two independent draws, because the record of rates tells only the two
marginal distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscaler.input_error import InputError
from policies.arrays import FloatArray
from simulations.traces.columns import MOST_TOKENS
from simulations.traces.records import RateRecord
from simulations.traces.tables import TraceFile, read_json

PROMPT_PARTS = ("text_tokens", "image_tokens", "audio_tokens", "video_tokens")

MOMENTS = 5
"""Columns of a table of moments: p, o, p^2, o^2, p*o for prompt and output tokens of a request."""


@dataclass(frozen=True, slots=True)
class QuantileTables:
    """Per client the quantiles at their midpoints, the first and last twice: (clients, quantiles + 2)."""

    prompts: NDArray[np.float32]
    outputs: NDArray[np.float32]

    def moments(self) -> FloatArray:
        """Moments of one request by client, (clients, MOMENTS), exact for the drawn law before rounding."""
        p, p_square = _first_two(self.prompts.astype(np.float64))
        o, o_square = _first_two(self.outputs.astype(np.float64))
        return np.stack((p, o, p_square, o_square, p * o), axis=1)


def _first_two(padded: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and mean square of the piecewise linear inverse CDF: the outer pieces are half as wide."""
    low, high = padded[:, :-1], padded[:, 1:]
    width = np.ones(low.shape[1])
    width[[0, -1]] = 0.5
    width /= width.sum()
    return ((low + high) / 2) @ width, ((low**2 + low * high + high**2) / 3) @ width


def row_moments(prompts: NDArray[np.int32], outputs: NDArray[np.int32]) -> FloatArray:
    """Moments of each row of a record, (rows, MOMENTS)."""
    p, o = prompts.astype(np.float64), outputs.astype(np.float64)
    return np.stack((p, o, p * p, o * o, p * o), axis=1)


def read_quantiles(file: TraceFile, record: RateRecord) -> QuantileTables:
    """Return the tables of the record's clients, in its order.

    The prompt is `input_tokens`, or where there is none the sum of the text, image, audio and video
    parts, quantile by quantile (the mean of a sum is the sum of the means; that the parts rise
    together is our assumption). A client without an entry gets the quantiles of all others' requests
    pooled, each client weighing as much as it sends. Raises InputError.
    """
    entries = _checked(file, read_json(file))
    prompts = {name: _prompt(file, name, fields) for name, fields in entries.items()}
    outputs = {name: _quantiles(file, name, fields, "output_tokens") for name, fields in entries.items()}
    if len({values.size for values in (*prompts.values(), *outputs.values())}) != 1:
        raise file.refusal("the clients have different numbers of quantiles", "give the same number for all")
    weights = dict(zip(record.clients, record.rate_rps.sum(axis=1), strict=True))
    return QuantileTables(_table(prompts, weights), _table(outputs, weights))


def _table(by_client: dict[str, FloatArray], weights: dict[str, float]) -> NDArray[np.float32]:
    pooled = _pooled(by_client, weights)
    rows = np.array([by_client.get(name, pooled) for name in weights])
    return np.pad(rows, ((0, 0), (1, 1)), mode="edge").astype(np.float32)


def _pooled(by_client: dict[str, FloatArray], weights: dict[str, float]) -> FloatArray:
    """As many quantiles of all clients' requests together, each client weighted by what it sends."""
    values = np.concatenate(list(by_client.values()))
    size = values.size // len(by_client)
    weight = np.repeat([weights.get(name, 0.0) for name in by_client], size)
    if weight.sum() == 0.0:
        weight = np.ones(values.size)
    order = np.argsort(values, kind="stable")
    reached = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
    pooled: FloatArray = np.interp((np.arange(size) + 0.5) / size, reached, values[order])
    return pooled


def _checked(file: TraceFile, data: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(data, dict) or not data or not all(isinstance(fields, dict) for fields in data.values()):
        raise file.refusal(
            "this is not an object of clients", 'write {"client": {"input_tokens": [...], "output_tokens": [...]}}'
        )
    return data


def _prompt(file: TraceFile, name: str, fields: dict[str, Any]) -> FloatArray:
    parts = ["input_tokens"] if "input_tokens" in fields else [part for part in PROMPT_PARTS if part in fields]
    if not parts:
        raise _refusal(file, name, "input_tokens", None, "it is missing")
    columns = [_quantiles(file, name, fields, part) for part in parts]
    if len({column.size for column in columns}) != 1:
        raise file.refusal("the parts have different numbers of quantiles", "give the same number", field=name)
    total: FloatArray = np.sum(columns, axis=0)
    return total


def _quantiles(file: TraceFile, name: str, fields: dict[str, Any], field: str) -> FloatArray:
    values = fields.get(field)
    if not isinstance(values, list) or not values:
        raise _refusal(file, name, field, values, "this is not a list of quantiles")
    if not all(isinstance(value, int | float) and 0 <= value <= MOST_TOKENS for value in values):
        raise _refusal(file, name, field, values, "a quantile is not a number from 0 up")
    if values != sorted(values):
        raise _refusal(file, name, field, values, "the quantiles do not ascend")
    return np.array(values, dtype=np.float64)


def _refusal(file: TraceFile, name: str, field: str, value: Any, problem: str) -> InputError:
    hint = "give ascending quantiles of token counts"
    return file.refusal(problem, hint, field=f"{name}.{field}", value=value)
