"""The library's API: a request in, a result out; and roll-back of attempts whose driver was killed.

    driver = Driver(open_toolset())
    driver.recover()
    result = driver.carry_out(RestoreRequest(artifact=..., placeholder_pid=...))

The agent and the command line use nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from restore_driver.attempt import recovery
from restore_driver.attempt.context import Attempt
from restore_driver.attempt.phases import CHECKPOINT, CHECKPOINT_AND_END, PARK, RESTORE, UNPARK, Observer, PhaseSequence
from restore_driver.attempt.recovery import Recovered
from restore_driver.attempt.walk import BoundSequence, Step, walk
from restore_driver.steps.dump import DumpSteps
from restore_driver.steps.park import ParkSteps, UnparkSteps
from restore_driver.steps.restore import RestoreSteps, restored_before
from restore_driver.steps.rollback import make_undos
from restore_driver.toolset import Toolset
from restore_driver.wire.phase import Phase
from restore_driver.wire.requests import (
    AnyRequest,
    CheckpointRequest,
    ParkRequest,
    Request,
    RestoreRequest,
    UnparkRequest,
)
from restore_driver.wire.result import Result

COLD_START = "cold-start"
"""The fallback of a result when no replica could be had from a snapshot."""


@dataclass(frozen=True)
class _Kind:
    """Sequence, steps and fallback of one type of request."""

    sequence: Callable[[Any], PhaseSequence]
    steps: Callable[[Toolset, Any], Mapping[Phase, Step]]
    fallback: str | None = None
    keep_record: bool = False
    answered_before: Callable[[Toolset, Any], dict[str, Any] | None] = lambda *_: None
    """Returns the answer of an equal attempt whose proven replica is still alive, or None."""


_KINDS: Mapping[type[Request], _Kind] = {
    CheckpointRequest: _Kind(
        sequence=lambda request: CHECKPOINT if request.leave_running else CHECKPOINT_AND_END,
        steps=lambda tools, request: DumpSteps(tools, request).steps(),
    ),
    RestoreRequest: _Kind(
        sequence=lambda _: RESTORE,
        steps=lambda tools, request: RestoreSteps(tools, request).steps(),
        fallback=COLD_START,
        keep_record=True,
        answered_before=restored_before,
    ),
    ParkRequest: _Kind(
        sequence=lambda _: PARK,
        steps=lambda tools, request: ParkSteps(tools, request).steps(),
    ),
    UnparkRequest: _Kind(
        sequence=lambda _: UNPARK,
        steps=lambda tools, request: UnparkSteps(tools, request).steps(),
        fallback=COLD_START,
    ),
}


@dataclass(frozen=True)
class Driver:
    """Carry out requests with one set of tools; may be used from several threads at once."""

    tools: Toolset

    def carry_out(self, request: AnyRequest, observe: Observer = lambda *_: None) -> Result:
        """Walk the request's sequence; every failure is in the result, none is raised.

        `observe` is called with `begin`, `end` or `undo` and the name of the phase or undo. A restore that was carried
        out before, and whose replica is alive, returns that replica's answer.
        """
        began_s = time.monotonic()
        kind = _KINDS[type(request)]
        sequence = kind.sequence(request)
        answer = kind.answered_before(self.tools, request)
        if answer is not None:
            return _result_of_before(sequence, answer, time.monotonic() - began_s)
        bound = BoundSequence(
            sequence=sequence,
            steps=kind.steps(self.tools, request),
            undos=make_undos(self.tools),
            deadlines_s=request.deadlines_s,
            fallback=kind.fallback,
            keep_record=kind.keep_record,
        )
        return walk(bound, Attempt(sequence.name), observe=observe)

    def recover(self) -> tuple[Recovered, ...]:
        """Roll back attempts whose driver was killed; idempotent, and safe while other drivers run."""
        return recovery.recover(self.tools.state, make_undos(self.tools))


def _result_of_before(sequence: PhaseSequence, answer: dict[str, Any], took_s: float) -> Result:
    return Result(
        sequence=sequence.name,
        outcome=sequence.outcome,
        total_s=took_s,
        unaccounted_s=took_s,
        phases=(),
        answer=answer,
    )
