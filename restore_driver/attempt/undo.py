"""Roll back the phases of an attempt that failed, in reverse."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from restore_driver.attempt.facts import AttemptFacts
from restore_driver.attempt.phases import Observer, PhaseRow, Undo
from restore_driver.deadline import Clock, Deadline

UndoStep = Callable[[AttemptFacts, Deadline], None]
"""Rolls one phase back from the journaled facts; idempotent, and may raise."""

UNDO_DEADLINE_S = 30.0
"""The least time that an undo gets; a phase with a longer deadline may need as long for the way back."""


@dataclass(frozen=True)
class RolledBack:
    """What a roll-back did."""

    undone: tuple[str, ...] = ()
    """Names of the undos that ran."""
    errors: tuple[str, ...] = ()
    """A sentence for each undo that failed."""


def undo_phases(  # noqa: PLR0913 - the table, the facts and the ports of one roll-back
    rows: Iterable[PhaseRow],
    begun: Collection[str],
    undos: Mapping[Undo, UndoStep],
    facts: AttemptFacts,
    *,
    observe: Observer = lambda *_: None,
    clock: Clock = time.monotonic,
) -> RolledBack:
    """Run the undos of the begun phases in reverse, each once; one that fails does not stop the others."""
    undone: list[str] = []
    errors: list[str] = []
    for row in reversed([row for row in rows if row.phase.value in begun]):
        if row.undo is None or row.undo.value in undone:
            continue
        observe("undo", row.undo.value)
        undone.append(row.undo.value)
        try:
            limit_s = max(UNDO_DEADLINE_S, row.deadline_s)
            undos[row.undo](facts, Deadline.after(f"undo {row.undo.value}", limit_s, clock))
        except Exception as error:  # noqa: BLE001 - the undos before it must run, whatever this one raises
            errors.append(f"{row.undo.value}: {type(error).__name__}: {error}")
    return RolledBack(tuple(undone), tuple(errors))
