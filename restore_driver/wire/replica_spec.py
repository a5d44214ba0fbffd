"""Describe a replica: how its engine is quiesced and resumed, and what proves that it works.

The spec is part of the manifest, so that a restore knows how to resume and which requests to make. It holds no secrets:
an API key stays in a file of the node, and only the file's name is written here.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Url = Annotated[str, Field(pattern=r"^http://[^/\s?#@]+(/[^\s#]*)?$")]
"""Plain HTTP with a host: the replica answers within its own network namespace."""
BaseUrl = Annotated[str, Field(pattern=r"^http://[^/\s?#@]+$")]
InsidePath = Annotated[str, Field(pattern=r"^/[^\x00]+$")]
"""An absolute path in the replica's own mount namespace."""
Pointer = Annotated[str, Field(pattern=r"^(/([^~/]|~[01])*)*$")]
"""RFC 6901; the empty one is the whole body."""
Program = Annotated[tuple[str, ...], Field(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpCall(_Frozen):
    """One HTTP request to the replica, made within its network namespace."""

    method: Literal["GET", "POST", "PUT", "DELETE"] = "GET"
    url: Url
    headers: dict[str, str] = {}
    api_key_file: InsidePath | None = None
    """File on the *driver's* side, readable by root alone, whose content is sent as `Authorization: Bearer`."""
    body: Any = None
    """Sent as JSON unless it is text or absent."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """The status that is expected; redirects are not followed."""


class NoEngine(_Frozen):
    """A replica that need not be quiesced: it may be stopped anywhere."""

    kind: Literal["none"] = "none"


class VllmEngine(_Frozen):
    """vLLM with sleep mode (`--enable-sleep-mode`, VLLM_SERVER_DEV_MODE=1)."""

    kind: Literal["vllm"]
    base_url: BaseUrl = "http://127.0.0.1:8000"
    level: Literal[1, 2] = 1
    """1 keeps the weights in host memory and drops the KV cache; 2 drops both, the weights are loaded again."""
    running_requests: Literal["wait", "abort"] = "wait"
    """What quiesce does with running requests: wait for their end, or abort them."""
    api_key_file: InsidePath | None = None


class SglangEngine(_Frozen):
    """SGLang with `--enable-memory-saver`."""

    kind: Literal["sglang"]
    base_url: BaseUrl = "http://127.0.0.1:30000"
    tags: Annotated[tuple[Literal["kv_cache", "weights", "cuda_graph"], ...], Field(min_length=1)] = (
        "kv_cache",
        "weights",
    )
    reload_from: str | None = None
    """Model path for `/update_weights_from_disk` after waking; needed for the weights to come back where the server
    runs without `--enable-weights-cpu-backup`."""
    running_requests: Literal["wait", "abort"] = "wait"
    api_key_file: InsidePath | None = None


class HttpEngine(_Frozen):
    """Any server with HTTP hooks of its own; each must be idempotent."""

    kind: Literal["http"]
    idle: HttpCall | None = None
    """Polled before `quiesce` until it answers its status."""
    quiesce: Annotated[tuple[HttpCall, ...], Field(min_length=1)]
    resume: Annotated[tuple[HttpCall, ...], Field(min_length=1)]


class ExecEngine(_Frozen):
    """Hooks that are programs, run in the replica's namespaces and root, as its user, with its environment."""

    kind: Literal["exec"]
    quiesce: Program
    resume: Program


class InProcessEngine(_Frozen):
    """A PyTorch replica with the helper of `restore_driver.replica` in its process."""

    kind: Literal["inprocess"]
    socket: InsidePath
    models: tuple[str, ...] = ()
    """Models whose weights it takes from a weights holder."""
    holder: InsidePath | None = None
    """The holder's socket in the replica's own mount namespace."""

    @model_validator(mode="after")
    def _models_come_from_a_holder(self) -> InProcessEngine:
        if self.models and self.holder is None:
            raise ValueError("models are named, and no holder: give its socket in the replica's mount namespace")
        return self


EngineSpec = Annotated[
    NoEngine | VllmEngine | SglangEngine | HttpEngine | ExecEngine | InProcessEngine, Field(discriminator="kind")
]


class SameAsBefore(_Frozen):
    """The answer recorded before the dump, exactly; for tokens."""

    kind: Literal["same_as_before"] = "same_as_before"
    pointers: tuple[Pointer, ...] = ()
    """The parts of a JSON body that are compared; none: the whole body."""


class ExactText(_Frozen):
    """The body is this text."""

    kind: Literal["text"]
    text: str


class JsonSubset(_Frozen):
    """The JSON body has at least these members, with these values, at every depth; lists are compared whole."""

    kind: Literal["json"]
    contains: dict[str, Any]


class Matches(_Frozen):
    """A regular expression is found in the body."""

    kind: Literal["regex"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return value


class NumbersWithin(_Frozen):
    """Numbers within the noise that the replica showed before the dump.

    The request is made `repeats` times; a number may then lie as far from their median as
    factor x (largest - smallest) + floor x |median| + floor.
    """

    kind: Literal["numbers_within"]
    pointers: Annotated[tuple[Pointer, ...], Field(min_length=1)]
    repeats: Annotated[int, Field(ge=2, le=100)] = 5
    factor: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 3.0
    floor: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1e-6

    def tolerance(self, median: float, spread: float) -> float:
        """Return how far from `median` a number may lie, rounded up so that every sample of the noise is within."""
        return math.nextafter(self.factor * spread + self.floor * (1.0 + abs(median)), math.inf)


Expectation = Annotated[SameAsBefore | ExactText | JsonSubset | Matches | NumbersWithin, Field(discriminator="kind")]


class KnownRequest(_Frozen):
    """A request whose answer is known: given here, or recorded before the dump."""

    call: HttpCall
    expect: Expectation = SameAsBefore()


class ProofSpec(_Frozen):
    """What must hold before a replica is ready."""

    requests: tuple[KnownRequest, ...] = ()
    weights_digest: bool = True
    """In-process engines: the digest of the weights on the GPU equals the one recorded before the dump."""


class ReplicaSpec(_Frozen):
    """Engine and proof.

    A proof is never skipped. That a replica is alive and listens as before is always checked; for engine `none`
    without requests, also that each listener accepts a connection. Any other engine needs a known request, or, in
    process, the digest of its weights.
    """

    engine: EngineSpec = NoEngine()
    proof: ProofSpec = ProofSpec()

    @model_validator(mode="after")
    def _is_provable(self) -> ReplicaSpec:
        engine, proof = self.engine, self.proof
        if isinstance(engine, NoEngine) or proof.requests:
            return self
        if isinstance(engine, InProcessEngine) and proof.weights_digest:
            return self
        raise ValueError(f"engine {engine.kind} has nothing that proves it: give a known request in proof.requests")
