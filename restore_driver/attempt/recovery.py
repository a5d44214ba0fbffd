"""What drivers that were killed left half done, taken back; and what ended long ago, forgotten.

Safe beside running drivers, since a journal that somebody works on is locked; and to repeat. A journal whose undo
failed stays as it is, to be tried again by the next look, unless its replica is gone: then there is nothing to save.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from restore_driver.attempt.journal import Facts, Journal, abandoned, read
from restore_driver.attempt.phases import TABLES, Undo
from restore_driver.attempt.walk import UndoStep, touched, undo_phases
from restore_driver.errors import Reason
from restore_driver.host import proc
from restore_driver.host.hugepages import put_back_stale
from restore_driver.tools import State

KEPT_S = 7 * 86400.0
"""How long the record of an ended restore is kept at least. A pod that is restarted tries again within seconds to
minutes (Kubernetes' back-off ends at five minutes), and its UID dies with it."""


@dataclass(frozen=True)
class Recovered:
    """What was taken back of one attempt whose driver died."""

    attempt: str
    phases: tuple[str, ...]
    undone: tuple[str, ...]
    errors: tuple[str, ...]


def recover(state: State, undos: Mapping[Undo, UndoStep]) -> tuple[Recovered, ...]:
    """Takes back what dead drivers left."""
    put_back_stale(state.huge_pages)
    done = tuple(_recover_one(path, fd, undos) for path, fd in abandoned(state.attempts))
    forget_old(state, time.time())
    return done


def _recover_one(path: Path, fd: int, undos: Mapping[Undo, UndoStep]) -> Recovered:
    entry = read(path)
    journal = Journal(path, fd, entry.facts)
    os.lseek(fd, 0, os.SEEK_END)
    rows = TABLES.get(entry.sequence, ())
    undone, errors = undo_phases(rows, list(entry.begun), undos, entry.facts)
    if errors and _can_still_be_saved(entry.facts):
        journal.close(forget=False)
        return Recovered(path.stem, entry.begun, undone, errors)
    last = (entry.begun or ("lock",))[-1]
    journal.end({"outcome": "failed", "reason": Reason.DRIVER_DIED.value, "detail": f"in phase {last}"})
    journal.close(forget=not (entry.sequence == "restore" and touched(entry.sequence, entry.begun)))
    return Recovered(path.stem, entry.begun, undone, errors)


def _can_still_be_saved(facts: Facts) -> bool:
    """The replica, or the placeholder, that the attempt was about lives."""
    return any(
        proc.is_same(facts[pid], facts[ticks])
        for pid, ticks in (("pid", "start_ticks"), ("placeholder_pid", "placeholder_ticks"))
        if pid in facts
    )


def forget_old(state: State, now_unix_s: float) -> None:
    """Removes records of restores that ended `KEPT_S` ago, and CRIU's logs of that age."""
    for path in state.attempts.glob("*.jsonl"):
        with suppress(OSError):
            if now_unix_s - path.stat().st_mtime > KEPT_S and read(path).outcome is not None:
                path.unlink()
    for path in (*state.work("").iterdir(), *state.placeholders.iterdir()):
        with suppress(OSError):
            if now_unix_s - path.stat().st_mtime > KEPT_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
