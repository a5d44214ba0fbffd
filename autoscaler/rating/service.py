"""Service models: the capacity of one replica, and the least work that a request costs.

A service file (`data/*.toml`) is a small roofline of one model on one kind of GPU, with the arithmetic
in its `source`. `rated` turns it into the capacity that the policies plan with, `least_work` into the
bound that no schedule can beat. The simulator (`simulations/engine/`) serves requests by it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.arrays import FloatArray

SERVICE_FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Rated:
    """What one replica sustains for a mix of requests, and the price of each part of it.

    Work is in replica-seconds: a request of p prompt and o output tokens costs
    `work_per_request_s + p * work_per_prompt_token_s + o * work_per_output_token_s`, and `rps` is
    one over the cost of the mean request. `work_per_request_s` may be negative, because a request's
    first token comes from its prefill and the price per output token counts it.
    """

    rps: float
    concurrency: float
    """Requests running on a replica that is just saturated: the batch that the limits allow."""
    work_per_prompt_token_s: float
    work_per_output_token_s: float
    work_per_request_s: float


class ServiceModel(BaseModel):
    """One model on one kind of GPU. `simulations/engine/__init__.py` defines the times."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    """Where the numbers come from, with the arithmetic."""
    gpu: str
    gpus_per_replica: int = Field(ge=1)
    weights_bytes: int = Field(ge=0)
    prefill_tokens_per_s: float = Field(gt=0)
    """`inf` for a model without prefill."""
    prefill_base_s: float = Field(ge=0)
    iteration_base_s: float = Field(ge=0, allow_inf_nan=False)
    iteration_per_sequence_s: float = Field(ge=0, allow_inf_nan=False)
    iteration_per_kv_token_s: float = Field(ge=0, allow_inf_nan=False)
    max_num_seqs: int = Field(ge=1, le=65536)
    kv_tokens_limit: float = Field(gt=0)
    max_prefill_backlog_s: float = Field(default=0.25, ge=0)
    """A replica with more prefill than this before it takes no request: the excess waits in the
    central queue. A quarter of a second keeps a replica fed over any routing delay."""
    router_weight_s: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """Seconds of prefill that one running sequence counts for when the router compares replicas."""

    @model_validator(mode="after")
    def _an_iteration_takes_time(self) -> ServiceModel:
        if self.iteration_base_s + self.iteration_per_sequence_s <= 0:
            raise ValueError("an iteration must take time: iteration_base_s + iteration_per_sequence_s > 0")
        return self

    def iteration_s(self, sequences: float, kv_tokens: float) -> float:
        """Seconds of one decode iteration of a batch."""
        return (
            self.iteration_base_s
            + self.iteration_per_sequence_s * sequences
            + self.iteration_per_kv_token_s * kv_tokens
        )

    def rated(self, mean_prompt: float, mean_output: float) -> Rated:
        """The most that a replica sustains when every request is the mean one.

        The cost of a token falls with the batch, so the batch is the largest that `max_num_seqs` and
        the KV limit allow. A mix of very unequal requests sustains a little less, since long requests
        hold their KV longer than the mean says. Tokens per request; raises ValueError unless prompt >= 0
        and output > 0.
        """
        if not (mean_prompt >= 0 and mean_output > 0):
            raise ValueError(f"a mix needs prompt >= 0 and output > 0 tokens, not {mean_prompt}, {mean_output}")
        kv_tokens = mean_prompt + mean_output / 2
        batch = max(1.0, min(float(self.max_num_seqs), self.kv_tokens_limit / kv_tokens))
        per_output_s = self.iteration_s(batch, batch * kv_tokens) / batch
        per_prompt_s = 1.0 / self.prefill_tokens_per_s
        # An output below one token (only theory has it) has no decode at all.
        first_tokens = min(mean_output, 1.0)
        per_request_s = self.prefill_base_s - per_output_s * first_tokens
        work_s = per_request_s + mean_prompt * per_prompt_s + mean_output * per_output_s
        return Rated(
            rps=1.0 / work_s if work_s > 0 else float("inf"),
            concurrency=batch,
            work_per_prompt_token_s=per_prompt_s,
            work_per_output_token_s=per_output_s,
            work_per_request_s=per_request_s,
        )

    def least_work(self, prompt: ArrayLike, output: ArrayLike) -> FloatArray:
        """Lower bound of the replica-seconds that each request costs, in any batch.

        Tokens per request; shapes broadcast to the result's. Prefill is never shared. Of each iteration
        a sequence bears its own increments and, in the largest batch that `max_num_seqs` allows, its
        share of the base; since these shares add up to no more than the iteration, the sum over requests
        bounds the busy time.
        """
        prompts = np.asarray(prompt, dtype=np.float64)
        outputs = np.asarray(output, dtype=np.float64)
        per_iteration_s = (
            self.iteration_base_s / self.max_num_seqs
            + self.iteration_per_sequence_s
            + self.iteration_per_kv_token_s * (prompts + outputs / 2)
        )
        prefill_s = self.prefill_base_s + prompts / self.prefill_tokens_per_s
        work: FloatArray = prefill_s + np.maximum(outputs - 1.0, 0.0) * per_iteration_s
        return work


def service_names() -> list[str]:
    """Names of the shipped service files, sorted."""
    return sorted(path.stem for path in SERVICE_FOLDER.glob("*.toml"))


def load_service(name_or_path: str | Path) -> ServiceModel:
    """Load a service by name, or from a user's TOML file (anything that ends in `.toml`).

    Raises ValueError for an unknown name (listing the known), for text that is not TOML and for a file
    that does not fit the schema; FileNotFoundError for a path that does not exist.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = service_names()
        if str(name_or_path) not in known:
            raise ValueError(f"unknown service {str(name_or_path)!r}; known: {', '.join(known)}")
        path = SERVICE_FOLDER / f"{name_or_path}.toml"
    with path.open("rb") as file:
        fields = tomllib.load(file)
    return ServiceModel(**{"name": path.stem, **fields})
