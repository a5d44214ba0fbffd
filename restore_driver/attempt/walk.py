"""Run one sequence: time every phase, end what misses its deadline, roll back in reverse, close the journal.

The clock is read here and nowhere in the steps, and every moment between the first and the last reading belongs to a
phase, to an undo, or to `unaccounted_s`: a slow line cannot hide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from restore_driver.attempt.context import Attempt
from restore_driver.attempt.phases import Observer, PhaseRow, PhaseSequence, Undo
from restore_driver.attempt.undo import RolledBack, UndoStep, undo_phases
from restore_driver.deadline import Clock, Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import is_full
from restore_driver.wire.phase import Phase
from restore_driver.wire.result import PhaseTime, Result

Details = Mapping[str, Any]
"""What a phase adds to its line of the result: JSON values by name."""
Step = Callable[[Attempt, Deadline], Details]
"""Does one phase; raises `DriverError`."""

_NO_FALLBACK = (Reason.BUSY, Reason.REQUEST_INVALID)
"""No cold start: a concurrent attempt may succeed (BUSY), or the request was invalid."""


@dataclass(frozen=True)
class BoundSequence:
    """A sequence with the steps and undos that carry it out for one request."""

    sequence: PhaseSequence
    steps: Mapping[Phase, Step]
    undos: Mapping[Undo, UndoStep]
    deadlines_s: Mapping[str, float] = field(default_factory=dict)
    """Overrides of the rows' deadlines, by phase name."""
    fallback: str | None = None
    keep_record: bool = False
    """Keep the journal of an attempt that touched something, so that the same attempt is never made twice."""


def walk(
    bound: BoundSequence, attempt: Attempt, *, observe: Observer = lambda *_: None, clock: Clock = time.monotonic
) -> Result:
    """Run all rows of a sequence. Whatever a step raises is in the result; nothing is raised for it."""
    return _Walk(bound, attempt, observe, clock).run()


class _Walk:
    def __init__(self, bound: BoundSequence, attempt: Attempt, observe: Observer, clock: Clock) -> None:
        self._bound, self._attempt, self._observe, self._clock = bound, attempt, observe, clock
        self._began_s = clock()
        self._times: list[PhaseTime] = []

    def run(self) -> Result:
        with self._attempt.stack:
            failed_in, failure = self._run_rows()
            rolled_back = self._roll_back(failure)
            self._release()
            result = self._result(failed_in, failure, rolled_back)
        self._close_journal(result)
        return result.model_copy(update={"warnings": tuple(self._attempt.warnings)})

    def _run_rows(self) -> tuple[Phase | None, DriverError | None]:
        for row in self._bound.sequence.rows:
            failure = self._run_row(row)
            if failure is not None:
                return row.phase, failure
        return None, None

    def _run_row(self, row: PhaseRow) -> DriverError | None:
        limit_s = self._bound.deadlines_s.get(row.phase.value, row.deadline_s)
        start_s = self._clock()
        deadline = Deadline(f"phase {row.phase.value}", limit_s, start_s + limit_s, self._clock)
        details: Details = {}
        failure: DriverError | None = None
        try:
            self._attempt.begin(row.phase.value)
            self._observe("begin", row.phase.value)
            details = self._bound.steps[row.phase](self._attempt, deadline)
            if not row.irrevocable:
                deadline.left_s()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - also Ctrl-C must resume a stopped tree
            failure = _as_driver_error(row.phase, error)
        self._observe("end", row.phase.value)
        self._note_time(row.phase.value, start_s, details)
        return failure

    def _roll_back(self, failure: DriverError | None) -> RolledBack:
        if failure is None or self._attempt.journal is None:
            return RolledBack()
        start_s = self._clock()
        self._attempt.facts["reason"] = failure.reason.value
        rolled_back = undo_phases(
            self._bound.sequence.rows,
            self._begun(),
            self._bound.undos,
            self._attempt.facts,
            observe=self._observe,
            clock=self._clock,
        )
        self._note_time("undo", start_s, {})
        return rolled_back

    def _release(self) -> None:
        try:
            self._attempt.stack.close()
        except Exception as error:  # noqa: BLE001 - a proven replica is proven, whatever could not be cleaned up
            self._attempt.warnings.append(f"{type(error).__name__}: {error}")

    def _result(self, failed_in: Phase | None, failure: DriverError | None, rolled_back: RolledBack) -> Result:
        total_s = self._clock() - self._began_s
        common = Result(
            sequence=self._bound.sequence.name,
            outcome=self._bound.sequence.outcome,
            total_s=total_s,
            unaccounted_s=total_s - sum(time.took_s for time in self._times),
            phases=tuple(self._times),
            undone=rolled_back.undone,
            undo_errors=rolled_back.errors,
            answer=self._attempt.answer,
        )
        if failure is None:
            return common
        return common.model_copy(
            update={
                "outcome": "failed" if self._touched() else "refused",
                "reason": failure.reason,
                "detail": failure.detail,
                "hint": failure.hint or None,
                "phase": failed_in and failed_in.value,
                "fallback": None if failure.reason in _NO_FALLBACK else self._bound.fallback,
            }
        )

    def _close_journal(self, result: Result) -> None:
        """End the record.

        One that cannot be ended (a full disk) is removed: the next driver would take it for abandoned and roll back a
        successful attempt.
        """
        journal = self._attempt.journal
        if journal is None:
            return
        keep = self._bound.keep_record and self._touched()
        try:
            journal.end(result.model_dump(mode="json", include={"outcome", "reason", "detail", "answer"}))
        except OSError as error:
            self._attempt.warnings.append(f"{journal.path} could not be ended and is forgotten: {error}")
            keep = False
        with suppress(OSError):
            journal.close(forget=not keep)

    def _note_time(self, phase: str, start_s: float, details: Details) -> None:
        took_s = self._clock() - start_s
        self._times.append(
            PhaseTime(phase=phase, began_s=start_s - self._began_s, took_s=took_s, details=dict(details))
        )

    def _begun(self) -> list[str]:
        return [time.phase for time in self._times]

    def _touched(self) -> bool:
        return self._bound.sequence.touched(self._begun())


def _as_driver_error(phase: Phase, error: BaseException) -> DriverError:
    """Return the error itself, or one with a reason code whose cause it is."""
    if isinstance(error, DriverError):
        return error
    if isinstance(error, KeyboardInterrupt):
        failure = DriverError(Reason.INTERRUPTED, f"{phase.value} was interrupted")
    elif isinstance(error, OSError):
        failure = DriverError(Reason.DISK_FULL if is_full(error) else Reason.INTERNAL, f"{phase.value}: {error}")
    else:
        failure = DriverError(Reason.INTERNAL, f"{phase.value}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
