"""The sequences as data: for each, its phases in order with deadline, undo and what they change.

Theory first, since the rows cannot show it.

A sequence is a pipeline, not a state machine: an attempt runs its rows from top to bottom, and running the last one is
the only success (`outcome`). There are no branches: a checkpoint that leaves its replica running and one that ends it
are two sequences, not one with an `if`. A phase that has nothing to do (no GPU, no engine hook) does nothing and says
so; it is not skipped, so that every result of a sequence lists the same phases in the same order.

When a phase fails or misses its deadline, the undo of *that* phase runs first (it may be half done) and then the
undos of the phases before it, in reverse. So an undo must be idempotent, must hold for a phase that never quite
began, and may use nothing but the facts that the journal holds: the same function runs in the driver that failed and
in the next driver after a `kill -9` (`journal.py`). A failing undo is reported beside the first error, never instead
of it, and never keeps the undos before it from running (`undo.py`).

What the order guards:

- The phases before the row that `touches` change nothing but what their own undo rolls back completely (a lease of
  device memory). What fails there is refused, not failed, and can be requested again.
- The lock comes before the first change, the record of the attempt with it. One key for all sequences on one replica:
  no two work on it at once. For a restore the key is pod and snapshot, and its record stays once the placeholder was
  touched: a second attempt is refused. That is what ends restart loops.
- The known answer is recorded *before* the engine is quiesced, and asked for *after* everything is back.
- CUDA is locked in all processes before it is checkpointed in any: no process may wait for another's GPU work.
- CUDA's checkpoint comes before CRIU's dump (it moves device memory into the process), its restore after CRIU's.
- The manifest is written last and the artifact published by one rename; only then may the replica be ended.
- Between CRIU's restore and the memory's filling the tree is stopped: it never runs without all of its memory.
- The weights are requested before CRIU restores and waited for after CUDA is back: the copy to the GPU runs in
  parallel with everything between.

Deadlines are several times what was measured (docs/restore.md) and end an attempt that hangs; they are no targets.
A request may override any of them by the phase's name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from restore_driver.wire.phase import Phase

Observer = Callable[[str, str], None]
"""Called with ("begin" | "end" | "undo", name of phase or undo) as they happen."""


class Undo(StrEnum):
    """What rolls a phase back; each is one function in `steps/rollback.py`."""

    RESUME_ENGINE = "resume-engine"
    RESTORE_CUDA = "restore-cuda"
    CONTINUE_TREE = "continue-tree"
    DROP_DRAFT = "drop-draft"
    RELEASE_WEIGHTS = "release-weights"
    TAKE_FILES_BACK = "take-files-back"
    KILL_RESTORED = "kill-restored"
    KILL_UNPARKED = "kill-unparked"
    FORGET_PARKED = "forget-parked"


@dataclass(frozen=True)
class PhaseRow:
    """Run `phase` within `deadline_s`; if it, or a later one, fails, run `undo`."""

    phase: Phase
    deadline_s: float
    undo: Undo | None = None
    touches: bool = False
    """The first phase of its sequence that changes a replica or a placeholder."""
    irrevocable: bool = False
    """Once it is done it is too late to fail: its deadline ends it while it runs, and is not checked after."""


@dataclass(frozen=True)
class PhaseSequence:
    """Phases in order.

    Raises:
        ValueError: a phase comes twice, there is not exactly one row that `touches`, or a row before it is
            `irrevocable`.
    """

    name: str
    outcome: str
    """What a result says when the last row is done."""
    rows: tuple[PhaseRow, ...]

    def __post_init__(self) -> None:
        if len({row.phase for row in self.rows}) != len(self.rows):
            raise ValueError(f"sequence {self.name}: a phase comes twice")
        if sum(row.touches for row in self.rows) != 1:
            raise ValueError(f"sequence {self.name}: exactly one phase is the first that touches anything")
        if any(row.irrevocable for row in self._before_touching()):
            raise ValueError(f"sequence {self.name}: a phase that touches nothing can always fail")

    def touched(self, begun: Collection[str]) -> bool:
        """Return True if an attempt that began these phases may have changed a replica or a placeholder."""
        return any(row.phase.value in begun for row in self.rows[len(self._before_touching()) :])

    def _before_touching(self) -> tuple[PhaseRow, ...]:
        first = next(number for number, row in enumerate(self.rows) if row.touches)
        return self.rows[:first]


_TO_FROZEN = (
    PhaseRow(Phase.GATE, 10.0),
    PhaseRow(Phase.LOCK, 2.0),
    PhaseRow(Phase.RECORD, 60.0),
    PhaseRow(Phase.QUIESCE, 60.0, Undo.RESUME_ENGINE, touches=True),
    PhaseRow(Phase.CUDA_LOCK, 30.0, Undo.RESTORE_CUDA),
    PhaseRow(Phase.CUDA_CHECKPOINT, 60.0, Undo.RESTORE_CUDA),
)

_TO_DUMPED = (
    *_TO_FROZEN,
    PhaseRow(Phase.DRAFT, 5.0, Undo.DROP_DRAFT),
    PhaseRow(Phase.DUMP, 120.0, Undo.CONTINUE_TREE),
    PhaseRow(Phase.CAPTURE, 60.0),
)

CHECKPOINT = PhaseSequence(
    "checkpoint",
    "published",
    (
        *_TO_DUMPED,
        PhaseRow(Phase.CONTINUE, 90.0, irrevocable=True),
        PhaseRow(Phase.COMPACT, 120.0),
        PhaseRow(Phase.PUBLISH, 300.0, irrevocable=True),
    ),
)
"""Leaves the replica running; its pause ends with `continue`, before the image is compacted and published."""

CHECKPOINT_AND_END = PhaseSequence(
    "checkpoint-and-end",
    "ended",
    (
        *_TO_DUMPED,
        PhaseRow(Phase.COMPACT, 120.0),
        PhaseRow(Phase.PUBLISH, 300.0, irrevocable=True),
        PhaseRow(Phase.END, 10.0, irrevocable=True),
    ),
)
"""Ends the replica, once the artifact is published and not a line earlier."""

RESTORE = PhaseSequence(
    "restore",
    "proven",
    (
        PhaseRow(Phase.GATE, 10.0),
        PhaseRow(Phase.LOCK, 2.0),
        PhaseRow(Phase.SEAL, 30.0),
        PhaseRow(Phase.WEIGHTS, 10.0, Undo.RELEASE_WEIGHTS),
        PhaseRow(Phase.FILES, 30.0, Undo.TAKE_FILES_BACK, touches=True),
        PhaseRow(Phase.RESTORE, 60.0, Undo.KILL_RESTORED),
        PhaseRow(Phase.FILL, 60.0),
        PhaseRow(Phase.CUDA_RESTORE, 60.0),
        PhaseRow(Phase.RESUME, 60.0),
        PhaseRow(Phase.PROVE, 30.0),
    ),
)

PARK = PhaseSequence(
    "park",
    "parked",
    (*_TO_FROZEN, PhaseRow(Phase.MEMORY_FREE, 10.0, Undo.FORGET_PARKED)),
)

UNPARK = PhaseSequence(
    "unpark",
    "proven",
    (
        PhaseRow(Phase.GATE, 10.0),
        PhaseRow(Phase.LOCK, 2.0),
        PhaseRow(Phase.WEIGHTS, 10.0, Undo.RELEASE_WEIGHTS),
        PhaseRow(Phase.CUDA_RESTORE, 60.0, Undo.KILL_UNPARKED, touches=True),
        PhaseRow(Phase.RESUME, 60.0),
        PhaseRow(Phase.PROVE, 30.0),
    ),
)

SEQUENCES = {sequence.name: sequence for sequence in (CHECKPOINT, CHECKPOINT_AND_END, RESTORE, PARK, UNPARK)}
