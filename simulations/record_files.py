"""Files that a replay leaves of its decisions: whole pass records, and one log line a decision.

A record file holds one pass a line, gzip-compressed where its name ends in `.gz`; `decide_again` makes every decision
of it anew and compares bytes, which is how a decision of last night is looked into without its cluster.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO, cast

from autoscaler.input_error import InputError
from autoscaler.ports import PassRecord
from autoscaler.reconcile import decided_again
from autoscaler.records import from_json, to_json
from autoscaler.telemetry.decisions import DecisionLog
from policies.baselines.hpa import HpaPolicy
from policies.baselines.knative import KnativePolicy
from policies.decide import ForethawPolicy
from policies.types import Policy

Keep = Callable[[PassRecord], None]
POLICIES: dict[str, Policy[Any]] = {
    "forethaw": ForethawPolicy(),
    "hpa": HpaPolicy(),
    "knative": KnativePolicy(metric="rps"),
}
"""Policies as their rows configure them; what a row starts from makes no difference to its policy."""


@contextmanager
def keeping(records: Path | None, decisions: Path | None) -> Iterator[Keep | None]:
    """Yield what a replay calls with each completed record, or None if neither file is asked for."""
    with ExitStack() as stack:
        sinks: list[Keep] = []
        if records is not None:
            file = stack.enter_context(_opened(records, "wt"))
            sinks.append(lambda record: _write_line(file, to_json(record)))
        if decisions is not None:
            text = stack.enter_context(_opened(decisions, "wt"))
            sinks.append(DecisionLog(text, "json").completed)
        yield (lambda record: _give(record, sinks)) if sinks else None


def _write_line(file: TextIO, line: str) -> None:
    file.write(line + "\n")


def _give(record: PassRecord, sinks: list[Keep]) -> None:
    for sink in sinks:
        sink(record)


@dataclass(frozen=True, slots=True)
class Again:
    """How a file's decisions came out when they were made again."""

    passes: int
    differing: tuple[float, ...]
    """Moments, in seconds, of the passes that came out differently."""


def decide_again(path: Path, policy: Policy[Any]) -> Again:
    """Make every decision of `path` anew and compare plan, memory, violations and actions byte for byte.

    Raises InputError, with the line, for a file that is no record file.
    """
    passes, differing = 0, []
    with _opened(path, "rt") as file:
        for number, line in enumerate(file, start=1):
            record = _record(path, number, line)
            try:
                again = replace(decided_again(policy, record), outcomes=record.outcomes)
            except (AttributeError, TypeError) as error:
                problem = f"{policy.name} cannot decide with the memory in it, which is another policy's ({error})"
                hint = "give --policy as it was when the file was written"
                raise InputError(str(path), number, "--policy", policy.name, problem, hint) from error
            passes += 1
            if to_json(again) != line.rstrip("\n"):
                differing.append(record.now_s)
    return Again(passes, tuple(differing))


def _record(path: Path, number: int, line: str) -> PassRecord:
    try:
        return from_json(line)
    except ValueError as error:
        hint = "give a file that `forethaw simulate --records` wrote"
        raise InputError(str(path), number, None, None, str(error), hint) from error


def _opened(path: Path, mode: str) -> TextIO:
    try:
        if path.suffix == ".gz":
            return cast("TextIO", gzip.open(path, mode, encoding="utf-8"))
        return cast("TextIO", path.open(mode, encoding="utf-8"))
    except OSError as error:
        raise InputError(str(path), None, None, None, str(error.strerror), "give a file that can be opened") from error
