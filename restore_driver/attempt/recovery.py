"""Roll back attempts whose driver was killed, and remove records of attempts that ended long ago.

Safe while other drivers run, since the journal of a running attempt is locked; and idempotent. A journal whose undo
failed stays as it is, for the next recovery, unless its replica is gone: then there is nothing to save.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from restore_driver.attempt.facts import AttemptFacts
from restore_driver.attempt.journal import Journal, abandoned, read
from restore_driver.attempt.phases import RESTORE, SEQUENCES, Undo
from restore_driver.attempt.undo import UndoStep, undo_phases
from restore_driver.errors import Reason
from restore_driver.host import proc
from restore_driver.host.hugepages import put_back_stale
from restore_driver.state_directory import StateDirectory

KEPT_S = 7 * 86400.0
"""How long the record of an ended restore is kept at least. A pod that is restarted tries again within seconds to
minutes (Kubernetes' back-off ends at five minutes), and its UID dies with it."""


@dataclass(frozen=True)
class Recovered:
    """What was rolled back of one attempt whose driver died."""

    attempt: str
    phases: tuple[str, ...]
    undone: tuple[str, ...]
    errors: tuple[str, ...]


def recover(state: StateDirectory, undos: Mapping[Undo, UndoStep]) -> tuple[Recovered, ...]:
    """Roll back what killed drivers left, and return one entry for each of their attempts."""
    put_back_stale(state.huge_pages)
    done = tuple(_recover_one(path, fd, undos) for path, fd in abandoned(state.attempts))
    forget_old(state, time.time())
    return done


def _recover_one(path: Path, fd: int, undos: Mapping[Undo, UndoStep]) -> Recovered:
    entry = read(path)
    journal = Journal(path, fd, entry.facts)
    os.lseek(fd, 0, os.SEEK_END)
    sequence = SEQUENCES.get(entry.sequence)  # None when the driver died before the first line was whole
    rolled_back = undo_phases(sequence.rows if sequence else (), entry.begun, undos, entry.facts)
    if rolled_back.errors and _can_still_be_saved(entry.facts):
        journal.close(forget=False)
        return Recovered(path.stem, entry.begun, rolled_back.undone, rolled_back.errors)
    last = (entry.begun or ("lock",))[-1]
    journal.end({"outcome": "failed", "reason": Reason.DRIVER_DIED.value, "detail": f"in phase {last}"})
    journal.close(forget=not (entry.sequence == RESTORE.name and RESTORE.touched(entry.begun)))
    return Recovered(path.stem, entry.begun, rolled_back.undone, rolled_back.errors)


def _can_still_be_saved(facts: AttemptFacts) -> bool:
    """Return True if the replica, or the placeholder, of the attempt is alive."""
    if "pid" in facts and proc.is_same(facts["pid"], facts["start_ticks"]):
        return True
    return "placeholder_pid" in facts and proc.is_same(facts["placeholder_pid"], facts["placeholder_ticks"])


def forget_old(state: StateDirectory, now_unix_s: float) -> None:
    """Remove records of restores that ended `KEPT_S` ago, and CRIU's logs of that age."""
    for path in state.attempts.glob("*.jsonl"):
        with suppress(OSError):
            if now_unix_s - path.stat().st_mtime > KEPT_S and read(path).outcome is not None:
                path.unlink()
    for path in (*state.work("").iterdir(), *state.placeholders.iterdir()):
        with suppress(OSError):
            if now_unix_s - path.stat().st_mtime > KEPT_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
