"""Lead times as data: how long each way to a serving replica takes, and where each number is from.

A file under `data/` (or a user's own TOML) holds parts (trigger, restore, CUDA, pod, probe), rates,
failures and the GPU supply, each with its source. `ladder` adds the parts of each path as independent
draws and scales weights by the replica's size; a restore's failures stay apart, with the cold start
that follows each. The result is what policies plan with before anything has been seen, and the prior
that `book.py` learns from.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from autoscaler.input_error import InputError
from autoscaler.leadtimes.shares import seconds, share_means
from autoscaler.refused_input import refused_input
from policies.arrays import FloatArray
from policies.leadtime import LeadTime
from policies.types import ACTIVE, COLD, PARKED, REMOTE, STAGED, SupplyStep, TierSpec

FOLDER = Path(__file__).parent / "data"
DRAWS = 4001
NORMAL = NormalDist()
FREE = "free"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Source = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Strict):
    """One part of a path: a lognormal by median and 95% quantile, or a uniform."""

    source: Source
    median_s: Positive | None = None
    p95_s: Positive | None = None
    cap_s: Positive | None = None
    uniform: tuple[Annotated[float, Field(ge=0)], Positive] | None = None

    @model_validator(mode="after")
    def _one_law(self) -> Part:
        lognormal = self.median_s is not None and self.p95_s is not None
        if lognormal == (self.uniform is not None):
            raise ValueError("give either median_s and p95_s, or uniform")
        if self.uniform is not None and not (self.median_s is self.p95_s is self.cap_s is None):
            raise ValueError("uniform is the whole law; median_s, p95_s and cap_s would be ignored")
        if self.median_s is not None and self.p95_s is not None and self.p95_s < self.median_s:
            raise ValueError("p95_s must not be below median_s")
        if self.median_s is not None and self.cap_s is not None and self.cap_s < self.median_s:
            raise ValueError("cap_s must not be below median_s")
        if self.uniform is not None and self.uniform[1] < self.uniform[0]:
            raise ValueError("uniform is [low, high]")
        return self

    def at(self, probability: FloatArray) -> FloatArray:
        """Quantiles at the given probabilities, seconds."""
        if self.uniform is not None:
            low, high = self.uniform
            return low + probability * (high - low)
        if self.median_s is None or self.p95_s is None:
            raise ValueError("a part without a law, which validation refuses")
        sigma = np.log(self.p95_s / self.median_s) / NORMAL.inv_cdf(0.95)
        seconds: FloatArray = self.median_s * np.exp(sigma * _normal_quantiles(probability))
        return np.minimum(seconds, self.cap_s) if self.cap_s is not None else seconds


class Parts(_Strict):
    trigger: Part
    gate: Part
    pod_start: Part
    probe: Part
    unpark: Part
    restore_memory: Part
    restore_disk: Part
    cuda_restore: Part
    cold_fixed: Part
    fetch: Part


class Rates(_Strict):
    """Bytes per second: holder and cold for each GPU of a replica, all at once; store for the whole fetch."""

    holder_bytes_per_s: Positive
    holder_source: Source
    cold_bytes_per_s: Positive
    cold_source: Source
    store_bytes_per_s: Positive
    store_source: Source


class Failures(_Strict):
    restore_probability: Share
    source: Source


class Holding(_Strict):
    """Holding costs as shares of the replica's GPUs."""

    parked_share: Share
    staged_share: Share
    remote_share: Share
    source: Source


class Supply(Part):
    """One step of the GPU supply beyond the free GPUs."""

    taking_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    holding_cost: Share
    """GPU-seconds per GPU and second at this step: the share of a GPU's price that is not recovered there."""
    whole_nodes: bool = False
    """GPUs of this step come and go as whole nodes."""


def _not_free(name: str) -> str:
    if name == FREE:
        raise ValueError("the free GPUs are always the first step; name the steps beyond them")
    return name


SupplyName = Annotated[str, Field(pattern="^[a-z][a-z0-9-]*$"), AfterValidator(_not_free)]


class LeadTimeFile(_Strict):
    """A whole file. Times in seconds, rates in bytes per second, `taking_cost` in GPU-seconds."""

    name: str
    parts: Parts
    rates: Rates
    failures: Failures
    holding: Holding
    supply_steps: Annotated[dict[SupplyName, Supply], Field(alias="supply", min_length=1)]

    def ladder(self, gpus_per_replica: int, weights_bytes: int, restored: bool) -> tuple[TierSpec, ...]:
        """The rungs of a replica, nearest first; without restores only `active` and `cold`.

        The holder feeds all GPUs of a replica in parallel; a restore of the weights overlaps with
        CRIU, so the longer of the two counts. In a cold start each GPU reads its own share, all at once.
        """
        parts, gpus = self.parts, float(gpus_per_replica)
        weights_s = weights_bytes / gpus_per_replica / self.rates.holder_bytes_per_s
        cold = _draw(parts.pod_start, 1) + _draw(parts.cold_fixed, 2) + _draw(parts.probe, 3)
        cold += weights_bytes / gpus_per_replica / self.rates.cold_bytes_per_s
        rungs = [TierSpec(ACTIVE, LeadTime((0.0,)), 1.0, gpus)]
        if restored:
            around = _draw(parts.trigger, 4) + _draw(parts.gate, 5)
            # Measured unparking holds 13 GB of weights already; only what is beyond that is added.
            unpark = around + _draw(parts.unpark, 6) + max(weights_s - 13e9 / self.rates.holder_bytes_per_s, 0.0)
            cuda = around + _draw(parts.cuda_restore, 7)
            staged = cuda + np.maximum(_draw(parts.restore_memory, 8), weights_s)
            fetch_s = _draw(parts.fetch, 10) + weights_bytes / self.rates.store_bytes_per_s
            remote = cuda + np.maximum(_draw(parts.restore_disk, 9), weights_s) + fetch_s
            holding = self.holding
            rungs += [
                TierSpec(PARKED, self._with_failures(unpark, cold), holding.parked_share, holding.parked_share * gpus),
                TierSpec(STAGED, self._with_failures(staged, cold), 0.0, holding.staged_share * gpus, True),
                TierSpec(REMOTE, self._with_failures(remote, cold), 0.0, holding.remote_share * gpus, True),
            ]
        return (*rungs, TierSpec(COLD, LeadTime(_quantiles(cold)), 0.0, 0.0))

    def _with_failures(self, restore: FloatArray, cold: FloatArray) -> LeadTime:
        """A share of restores fails at its own end and then starts cold."""
        return LeadTime(_quantiles(restore), self.failures.restore_probability, _quantiles(cold))

    def supply(self, kind: str) -> tuple[SupplyStep, ...]:
        """GPU supply ladder: the free GPUs, then the steps named in `kind`, nearest first, joined by `+`.

        A step costs its `holding_cost` only where a farther one follows: giving the GPU up to that one
        is what it is held instead of. The last step costs nothing, since there the pool is owned (or
        not bought) whatever the policy does. Raises InputError for a name that the file lacks and for
        steps that repeat or are not in order of their mean lead time.
        """
        names = kind.split("+")
        for name in names:
            if name not in self.supply_steps:
                raise self._no_supply(kind, f"there is no GPU supply {name!r}")
        steps = [SupplyStep(FREE, LeadTime((0.0,)), 1.0)]
        for name in names:
            entry = self.supply_steps[name]
            held = entry.holding_cost if name != names[-1] else 0.0
            lead_time = LeadTime(_quantiles(_draw(entry, 11)))
            steps.append(SupplyStep(name, lead_time, held, entry.taking_cost, entry.whole_nodes))
        if any(nearer.lead_time.mean_s >= farther.lead_time.mean_s for nearer, farther in pairwise(steps)):
            raise self._no_supply(kind, "a step repeats or is not farther than the one before it")
        return tuple(steps)

    def _no_supply(self, kind: str, problem: str) -> InputError:
        hint = f"give one or more of {', '.join(self.supply_steps)}, nearest first, joined by +"
        return InputError(self.name, None, "supply", kind, problem, hint)

    def sources(self) -> dict[str, str]:
        """Each entry's source, for the report."""
        named = {f"lead time: {n}": getattr(self.parts, n).source for n in type(self.parts).model_fields}
        named |= {f"rate: {n}": getattr(self.rates, f"{n}_source") for n in ("holder", "cold", "store")}
        named |= {f"supply: {n}": step.source for n, step in self.supply_steps.items()}
        return named | {"restore failures": self.failures.source, "holding costs": self.holding.source}


def _normal_quantiles(probability: FloatArray) -> FloatArray:
    """Standard normal quantiles. The standard library's are as exact as scipy's, whose import takes a second."""
    return np.fromiter(map(NORMAL.inv_cdf, probability.tolist()), np.float64, len(probability))


@lru_cache(maxsize=256)
def _draw(part: Part, salt: int) -> FloatArray:
    """The part's whole distribution in equal shares, in an order of its own: sums are of independent draws."""
    order = np.random.Generator(np.random.PCG64(salt)).permutation(DRAWS)
    drawn = part.at((order + 0.5) / DRAWS)
    drawn.flags.writeable = False  # cached: a fleet of a thousand sizes adds up the same parts
    return drawn


def _quantiles(draws: FloatArray) -> tuple[float, ...]:
    return seconds(share_means(np.sort(draws), np.ones(len(draws))))


def load_lead_times(name_or_path: str) -> LeadTimeFile:
    """A shipped file by name, or a TOML file; InputError names file, field, value and hint."""
    path = FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise InputError(
            name_or_path, None, None, None, "there is no such lead time file", f"give a TOML file or {known}"
        )
    try:
        text = path.read_text("utf-8")
        return LeadTimeFile.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), None, None, None, f"is not TOML ({error})", "correct the file") from error
    except ValidationError as error:
        hint = "correct the entry after autoscaler/leadtimes/data/h100.toml"
        raise refused_input(error, str(path), hint, line_of=lambda field: _line_of(text, field)) from error


def _line_of(text: str, field: str) -> int | None:
    """The line that holds a field, or the nearest table around it; None where not even that is there."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = stripped[1:].partition("]")[0].strip()
            lines.setdefault(table, number)
        elif "=" in stripped and not stripped.startswith("#"):
            lines.setdefault(f"{table}.{stripped.partition('=')[0].strip()}".lstrip("."), number)
    while field and field not in lines:
        field = field.rpartition(".")[0]
    return lines.get(field)
