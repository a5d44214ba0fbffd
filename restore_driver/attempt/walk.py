"""Walks one table of `phases.py`: times every phase, ends what misses its deadline, undoes in reverse.

The clock is read here and nowhere in the steps, and every moment between the first and the last reading belongs to a
phase, to an undo, or to `unaccounted_s`: a slow line can't hide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from restore_driver.attempt.journal import Facts, Journal
from restore_driver.attempt.phases import IRREVOCABLE, TOUCHES, Row, Undo
from restore_driver.deadline import Clock, Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import is_full
from restore_driver.wire.phase import Phase
from restore_driver.wire.result import PhaseTime, Result


@dataclass
class Attempt:
    """What the steps of one attempt share: facts for the undos (journaled), live objects for the next steps."""

    key: str = ""
    facts: Facts = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    """Objects that live only as long as the attempt: manifest, lease, open descriptors."""
    answer: dict[str, Any] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    warnings: list[str] = field(default_factory=list)
    """What went wrong beside the work: told in the result, and changing nothing of how it went."""
    journal: Journal | None = None

    def intend(self, **facts: Any) -> None:
        """Notes what the running phase is about to touch, on disk before it touches it."""
        self.facts.update(facts)
        if self.journal is not None:
            self.journal.intend(**facts)


Step = Callable[[Attempt, Deadline], Mapping[str, Any]]
"""Does one phase and returns what its line of the result should tell; raises `DriverError`."""
UndoStep = Callable[[Facts, Deadline], None]
Observer = Callable[[str, str], None]
"""Told ("begin" | "end" | "undo", phase) as they happen."""

UNDO_DEADLINE_S = 30.0
_NO_FALLBACK = (Reason.BUSY, Reason.REQUEST_INVALID)
"""Another attempt may yet bring the replica, or the request was none: nobody should start a second one for that."""


@dataclass(frozen=True)
class Plan:
    """A sequence bound to its steps: what `walk` needs to know."""

    sequence: str
    rows: tuple[Row, ...]
    steps: Mapping[Phase, Step]
    undos: Mapping[Undo, UndoStep]
    deadlines_s: Mapping[str, float] = field(default_factory=dict)
    fallback: str | None = None
    keep_record: bool = False
    """Keep the journal of an attempt that touched something, so that the same attempt is never made twice."""


def walk(plan: Plan, attempt: Attempt, *, observe: Observer = lambda *_: None, clock: Clock = time.monotonic) -> Result:
    """Runs all rows; never raises for what a step does: the result says it."""
    began_s = clock()
    times: list[PhaseTime] = []
    failure: DriverError | None = None
    at: Row | None = None
    warnings = attempt.warnings
    with attempt.stack as stack:
        for at in plan.rows:
            failure = _one(at, plan, attempt, times, began_s, observe, clock)
            if failure is not None:
                break
        undone, undo_errors = _undo(plan, attempt, times, failure, began_s, observe, clock)
        try:
            stack.close()
        except Exception as error:  # a proven replica is proven, whatever could not be tidied up
            warnings.append(f"{type(error).__name__}: {error}")
        result = _result(plan, attempt, times, failure, at, undone, undo_errors, clock() - began_s)
    _close(plan, attempt, result, warnings)
    return result.model_copy(update={"warnings": tuple(warnings)})


def _one(
    row: Row, plan: Plan, attempt: Attempt, times: list[PhaseTime], began_s: float, observe: Observer, clock: Clock
) -> DriverError | None:
    limit_s = plan.deadlines_s.get(row.phase.value, row.deadline_s)
    start_s = clock()
    deadline = Deadline(f"phase {row.phase.value}", limit_s, start_s + limit_s, clock)
    details: Mapping[str, Any] = {}
    failure: DriverError | None = None
    try:
        if attempt.journal is not None:
            attempt.journal.facts = attempt.facts
            attempt.journal.begin(row.phase.value)
        observe("begin", row.phase.value)
        details = plan.steps[row.phase](attempt, deadline)
        if row.phase not in IRREVOCABLE:
            deadline.left_s()
    except DriverError as error:
        failure = error
    except OSError as error:
        reason = Reason.DISK_FULL if is_full(error) else Reason.INTERNAL
        failure = DriverError(reason, f"{row.phase.value}: {error}")
        failure.__cause__ = error
    except KeyboardInterrupt:  # a tree that was stopped must not stay so
        failure = DriverError(Reason.INTERRUPTED, f"{row.phase.value} was interrupted")
    except Exception as error:
        failure = DriverError(Reason.INTERNAL, f"{row.phase.value}: {type(error).__name__}: {error}")
        failure.__cause__ = error
    observe("end", row.phase.value)
    times.append(
        PhaseTime(phase=row.phase.value, began_s=start_s - began_s, took_s=clock() - start_s, details=dict(details))
    )
    return failure


def _undo(
    plan: Plan,
    attempt: Attempt,
    times: list[PhaseTime],
    failure: DriverError | None,
    began_s: float,
    observe: Observer,
    clock: Clock,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if failure is None or attempt.journal is None:
        return (), ()
    start_s = clock()
    attempt.facts["reason"] = failure.reason.value
    begun = [time.phase for time in times]
    undone, errors = undo_phases(plan.rows, begun, plan.undos, attempt.facts, observe=observe, clock=clock)
    times.append(PhaseTime(phase="undo", began_s=start_s - began_s, took_s=clock() - start_s))
    return undone, errors


def undo_phases(
    rows: tuple[Row, ...],
    begun: list[str],
    undos: Mapping[Undo, UndoStep],
    facts: Facts,
    *,
    observe: Observer = lambda *_: None,
    clock: Clock = time.monotonic,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Runs the undos of the begun phases in reverse, each once; an undo's failure does not stop the others.

    Returns:
        Names of the undos that ran, and a sentence for each that failed.
    """
    undone: list[str] = []
    errors: list[str] = []
    for row in reversed([row for row in rows if row.phase.value in begun]):
        if row.undo is None or row.undo.value in undone:
            continue
        observe("undo", row.undo.value)
        undone.append(row.undo.value)
        try:
            limit_s = max(UNDO_DEADLINE_S, row.deadline_s)  # what may take long one way may do so the other way
            undos[row.undo](facts, Deadline.after(f"undo {row.undo.value}", limit_s, clock))
        except Exception as error:  # whatever it is, the undos before it must still run
            errors.append(f"{row.undo.value}: {type(error).__name__}: {error}")
    return tuple(undone), tuple(errors)


def _result(
    plan: Plan,
    attempt: Attempt,
    times: list[PhaseTime],
    failure: DriverError | None,
    at: Row | None,
    undone: tuple[str, ...],
    undo_errors: tuple[str, ...],
    total_s: float,
) -> Result:
    assert at is not None
    outcome = at.next if failure is None else ("failed" if _touched(plan, times) else "refused")
    return Result(
        sequence=plan.sequence,
        outcome=outcome,
        reason=None if failure is None else failure.reason,
        detail=None if failure is None else failure.detail,
        hint=None if failure is None else failure.hint or None,
        phase=None if failure is None else at.phase.value,
        fallback=None if failure is None or failure.reason in _NO_FALLBACK else plan.fallback,
        total_s=total_s,
        unaccounted_s=total_s - sum(time.took_s for time in times),
        phases=tuple(times),
        undone=undone,
        undo_errors=undo_errors,
        answer=attempt.answer,
    )


def _touched(plan: Plan, times: list[PhaseTime]) -> bool:
    return touched(plan.sequence, [time.phase for time in times])


def touched(sequence: str, begun: Sequence[str]) -> bool:
    """Whether an attempt came so far that it may have changed a replica or a placeholder."""
    return sequence in TOUCHES and TOUCHES[sequence].value in begun


def _close(plan: Plan, attempt: Attempt, result: Result, warnings: list[str]) -> None:
    """Ends the record. One that can't be ended (its disk is full) is forgotten: the next driver would take it for
    abandoned and undo what is well."""
    journal = attempt.journal
    if journal is None:
        return
    keep = plan.keep_record and _touched(plan, list(result.phases))
    try:
        journal.end(result.model_dump(mode="json", include={"outcome", "reason", "detail", "answer"}))
    except OSError as error:
        warnings.append(f"{journal.path} could not be ended and is forgotten: {error}")
        keep = False
    with suppress(OSError):
        journal.close(forget=not keep)
