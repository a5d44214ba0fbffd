"""What a user may ask of `forethaw simulate`, checked once at the edge.

Every refusal is one sentence that names the option, the value and the hint; inside, options are taken
as they are. Names that only a file can resolve (traces, engines, lead times, supply steps) are checked where it is
opened (`build.py`).
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from autoscaler.input_error import InputError
from autoscaler.refused_input import refused_input
from simulations.scenario.rows import CLAIRVOYANT, COMPARE_ALL, ROWS

COMMAND_LINE = "command line"
OPTION_NAMES = {
    "start_s": "--start",
    "duration_s": "--duration",
    "warmup_s": "--warmup",
    "slo_wait_s": "--slo-wait",
    "slo_share": "--slo-share",
    "miss_cost": "--miss-cost",
    "rows": "--policy",
}
"""What the user typed for a field, where the two differ."""


class TargetRequest(BaseModel):
    """One target: a name and a trace, with the engine that serves it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    trace: str
    service: str
    scale: int = 1
    thin: float = 1.0


FLEET_SERVEGEN: tuple[TargetRequest, ...] = (
    TargetRequest(name="m-large", trace="servegen/m-large", service="llama-3.1-70b-fp8-h100-tp2"),
    TargetRequest(name="m-mid", trace="servegen/m-mid", service="llama-3.1-8b-h100"),
    TargetRequest(name="m-small", trace="servegen/m-small", service="llama-3.1-8b-h100"),
    TargetRequest(name="deepseek-r1", trace="servegen/deepseek-r1", service="qwen-32b-h100-tp2"),
    TargetRequest(name="mm-image", trace="servegen/mm-image", service="qwen2.5-vl-7b-h100"),
)
"""The flagship: five production models of one provider on one clock and one pool of GPUs. The provider
does not say what each runs on, so each is served by an engine of about its size."""

FLEETS = {"servegen": FLEET_SERVEGEN}


class SimulateOptions(BaseModel):
    """A whole command line of `forethaw simulate`; seconds, GPUs, shares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: tuple[TargetRequest, ...]
    rows: tuple[str, ...] = ("forethaw",)
    start_s: float = 0.0
    duration_s: float | None = None
    warmup_s: float = 300.0
    gpus: int | None = None
    supply: str = "lent"
    """Steps of the lead times' GPU supply, nearest first, joined by `+`."""
    slo_wait_s: float = 2.0
    slo_share: float = 0.999
    miss_cost: float = 5.0
    leadtimes: str = "h100"
    seed: int = 1
    jobs: int = 2
    progress: bool = True
    command: str = ""

    @field_validator("start_s", "miss_cost")
    @classmethod
    def _not_negative(cls, value: float) -> float:
        return _at_least(value, 0.0)

    @field_validator("slo_wait_s", "duration_s")
    @classmethod
    def _positive(cls, value: float | None) -> float | None:
        if value is not None and not (0 < value < math.inf):
            raise ValueError("give a finite number above 0")
        return value

    @field_validator("warmup_s")
    @classmethod
    def _whole_minutes(cls, value: float) -> float:
        if value < 60 or value % 60:
            raise ValueError("give whole minutes in seconds, 60 or more: a forecast needs a past")
        return value

    @field_validator("slo_share")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError("give a share above 0 and up to 1, such as 0.999")
        return value

    @field_validator("gpus", "jobs", "seed")
    @classmethod
    def _whole(cls, value: int | None) -> int | None:
        if value is not None and value < 0:
            raise ValueError("give a whole number, 0 or more")
        return value

    @field_validator("rows")
    @classmethod
    def _known_rows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = (*ROWS, CLAIRVOYANT)
        for name in value:
            if name not in known:
                raise ValueError(f"{name!r} is no policy; give one of {', '.join(known)}, or all")
        if not any(name in ROWS for name in value):
            raise ValueError("a bound alone compares nothing; name a policy beside it")
        return tuple(dict.fromkeys(value))


def _at_least(value: float, least: float) -> float:
    if not (least <= value < math.inf):
        raise ValueError(f"give a finite number, {least:g} or more")
    return value


def make_options(**given: object) -> SimulateOptions:
    """`SimulateOptions` of what was given; raises InputError in place of pydantic's own."""
    try:
        options = SimulateOptions.model_validate(given)
    except ValidationError as error:
        raise refused_input(error, COMMAND_LINE, name_of=lambda field: OPTION_NAMES.get(field, "--" + field)) from None
    if options.gpus == 0:
        raise _refusal("--gpus", 0, "a pool without GPUs serves nothing", "give 1 or more")
    if not options.targets:
        raise _refusal("TRACE", None, "there is nothing to replay", "give a trace, --target NAME=TRACE or --fleet")
    names = [t.name for t in options.targets]
    for name in names:
        if names.count(name) > 1:
            raise _refusal("--target", name, "two targets have this name", "give each a name of its own")
    return options


def _refusal(field: str, value: object, problem: str, hint: str) -> InputError:
    return InputError(COMMAND_LINE, None, field, value, problem, hint)


def parse_target(text: str, service: str, scale: int, thin: float) -> TargetRequest:
    """`NAME=TRACE[,service=S][,scale=K][,thin=P]`; what is left out is as for all targets."""
    name, equals, rest = text.partition("=")
    trace, *settings = rest.split(",")
    if not (name and equals and trace):
        raise _refusal("--target", text, "this is not NAME=TRACE", "write for instance chat=azure-conv,scale=20")
    given: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in ("service", "scale", "thin") or not value:
            raise _refusal("--target", setting, "there is no such setting", "give service=, scale= or thin=")
        given[key] = value
    try:
        return TargetRequest(
            name=name,
            trace=trace,
            service=given.get("service", service),
            scale=int(given.get("scale", scale)),
            thin=float(given.get("thin", thin)),
        )
    except ValueError:
        raise _refusal(
            "--target", text, "scale is a whole number and thin a share", "write scale=20,thin=0.5"
        ) from None


def parse_rows(policies: list[str], compare: str) -> tuple[str, ...]:
    """Rows from `--policy` and `--compare`: `all` stands for the whole table, in its order."""
    wanted = [*policies, *(name.strip() for name in compare.split(",") if name.strip())]
    return COMPARE_ALL if "all" in wanted else tuple(dict.fromkeys(wanted)) or ("forethaw",)
