"""The four sequences as one transition table: state, phase, deadline, undo, next state.

Theory first, since the table can't show it.

An attempt walks its rows from top to bottom and ends in the last row's `next` state; that is the only success. There
are no branches: a checkpoint that leaves its replica running and one that ends it are two tables, not one with an
`if`. A phase that has nothing to do (no GPU, no engine hook) does nothing and says so; it is not skipped by the
table, so that every result lists the same phases in the same order.

When a phase fails or misses its deadline, the undo of *that* phase runs first (it may be half done) and then the
undos of the phases before it, in reverse. So an undo must be idempotent, must hold for a phase that never quite
began, and may use nothing but the facts that the journal holds: the same function runs in the driver that failed and
in the next driver after a `kill -9` (`journal.py`). A failing undo is reported beside the first error, never instead
of it, and never keeps the undos before it from running.

What the order guards:

- The phases before `TOUCHES` change nothing but what their own undo takes back for good (a promise of memory). What
  fails there is refused, not failed, and can be asked again.
- The lock comes before the first change, the record of the attempt with it. One key for all sequences on one replica:
  no two work on it at once. For a restore the key is pod and snapshot, and its record stays once the placeholder was
  touched: a second attempt is refused. That is what ends restart loops.
- The known answer is recorded *before* the engine is quiesced, and asked for *after* everything is back.
- CUDA is locked in all processes before it is checkpointed in any: no process may wait for another's GPU work.
- CUDA's checkpoint comes before CRIU's dump (it moves device memory into the process), its restore after CRIU's.
- The manifest is written last and the artifact published by one rename; only then may the replica be ended.
- Between CRIU's restore and the memory's filling the tree is stopped: it never runs without all of its memory.
- The weights are asked for before CRIU restores and waited for after CUDA is back: the copy to the card runs in
  parallel with everything between.

Deadlines are several times what was measured (docs/restore.md) and end an attempt that hangs; they are no targets.
A request may override any of them by the phase's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from restore_driver.wire.phase import Phase


class Undo(StrEnum):
    """What takes a phase back; each is one function in `undo.py`."""

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
class Row:
    """In `state`, do `phase` within `deadline_s`; then the state is `next`, or `undo` runs."""

    state: str
    phase: Phase
    deadline_s: float
    undo: Undo | None
    next: str


_TO_FROZEN = (
    Row("asked", Phase.GATE, 10.0, None, "fit"),
    Row("fit", Phase.LOCK, 2.0, None, "ours"),
    Row("ours", Phase.RECORD, 60.0, None, "known"),
    Row("known", Phase.QUIESCE, 60.0, Undo.RESUME_ENGINE, "quiet"),
    Row("quiet", Phase.CUDA_LOCK, 30.0, Undo.RESTORE_CUDA, "locked"),
    Row("locked", Phase.CUDA_CHECKPOINT, 60.0, Undo.RESTORE_CUDA, "off-card"),
)

_DUMPED = (
    *_TO_FROZEN,
    Row("off-card", Phase.DRAFT, 5.0, Undo.DROP_DRAFT, "drafted"),
    Row("drafted", Phase.DUMP, 120.0, Undo.CONTINUE_TREE, "dumped"),
    Row("dumped", Phase.CAPTURE, 60.0, None, "captured"),
)

CHECKPOINT = (
    *_DUMPED,
    Row("captured", Phase.CONTINUE, 90.0, None, "serving"),
    Row("serving", Phase.COMPACT, 120.0, None, "small"),
    Row("small", Phase.PUBLISH, 300.0, None, "published"),
)
"""Leaves the replica running; its pause ends with `continue`, before the image is compacted and published."""

CHECKPOINT_AND_END = (
    *_DUMPED,
    Row("captured", Phase.COMPACT, 120.0, None, "small"),
    Row("small", Phase.PUBLISH, 300.0, None, "published"),
    Row("published", Phase.END, 10.0, None, "ended"),
)
"""Ends the replica, once the artifact is published and not a line earlier."""

RESTORE = (
    Row("asked", Phase.GATE, 10.0, None, "fit"),
    Row("fit", Phase.LOCK, 2.0, None, "ours"),
    Row("ours", Phase.SEAL, 30.0, None, "trusted"),
    Row("trusted", Phase.WEIGHTS, 10.0, Undo.RELEASE_WEIGHTS, "loading"),
    Row("loading", Phase.FILES, 30.0, Undo.TAKE_FILES_BACK, "placed"),
    Row("placed", Phase.RESTORE, 60.0, Undo.KILL_RESTORED, "restored"),
    Row("restored", Phase.FILL, 60.0, None, "whole"),
    Row("whole", Phase.CUDA_RESTORE, 60.0, None, "on-card"),
    Row("on-card", Phase.RESUME, 60.0, None, "awake"),
    Row("awake", Phase.PROVE, 30.0, None, "proven"),
)

PARK = (
    *_TO_FROZEN,
    Row("off-card", Phase.MEMORY_FREE, 10.0, Undo.FORGET_PARKED, "parked"),
)

UNPARK = (
    Row("asked", Phase.GATE, 10.0, None, "fit"),
    Row("fit", Phase.LOCK, 2.0, None, "ours"),
    Row("ours", Phase.WEIGHTS, 10.0, Undo.RELEASE_WEIGHTS, "loading"),
    Row("loading", Phase.CUDA_RESTORE, 60.0, Undo.KILL_UNPARKED, "on-card"),
    Row("on-card", Phase.RESUME, 60.0, None, "awake"),
    Row("awake", Phase.PROVE, 30.0, None, "proven"),
)

TOUCHES: dict[str, Phase] = {
    "checkpoint": Phase.QUIESCE,
    "checkpoint-and-end": Phase.QUIESCE,
    "restore": Phase.FILES,
    "park": Phase.QUIESCE,
    "unpark": Phase.CUDA_RESTORE,
}
"""The first phase that changes a replica or a placeholder."""

IRREVOCABLE = frozenset({Phase.CONTINUE, Phase.PUBLISH, Phase.END})
"""Once they are done it is too late to fail: a deadline ends them while they run, and is not looked at after."""

TABLES: dict[str, tuple[Row, ...]] = {
    "checkpoint": CHECKPOINT,
    "checkpoint-and-end": CHECKPOINT_AND_END,
    "restore": RESTORE,
    "park": PARK,
    "unpark": UNPARK,
}
