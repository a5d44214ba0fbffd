"""The sequences keep their rules, and `walk` keeps its promises on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.attempt.context import Attempt
from restore_driver.attempt.facts import AttemptFacts
from restore_driver.attempt.journal import Journal, abandoned, read
from restore_driver.attempt.phases import (
    CHECKPOINT,
    CHECKPOINT_AND_END,
    PARK,
    RESTORE,
    SEQUENCES,
    UNPARK,
    PhaseRow,
    PhaseSequence,
    Undo,
)
from restore_driver.attempt.walk import BoundSequence, walk
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.phase import Phase


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES)
def test_the_gate_comes_first_and_the_lock_before_anything_that_needs_an_undo(sequence: PhaseSequence) -> None:
    phases = [row.phase for row in sequence.rows]

    assert phases[:2] == [Phase.GATE, Phase.LOCK]
    assert all(row.undo is None for row in sequence.rows[:2])


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES)
def test_each_phase_that_may_be_half_done_when_it_fails_has_an_undo_behind_it(sequence: PhaseSequence) -> None:
    """From the first phase that touches something on, an undo of this phase or of one before it rolls back."""
    undos = [row.undo for row in sequence.rows]

    for number, row in enumerate(sequence.rows):
        if sequence.touched([row.phase.value]):
            assert any(undos[: number + 1]), row.phase


def test_the_source_ends_only_after_its_artifact_is_published() -> None:
    phases = [row.phase for row in CHECKPOINT_AND_END.rows]

    assert phases[-2:] == [Phase.PUBLISH, Phase.END]


def test_every_phase_and_every_undo_belongs_to_a_sequence() -> None:
    rows = [row for sequence in SEQUENCES.values() for row in sequence.rows]

    assert {row.phase for row in rows} == set(Phase)
    assert {row.undo for row in rows} - {None} == set(Undo)


@pytest.mark.parametrize(
    ("first_touching", "sequence"),
    [
        ("quiesce", CHECKPOINT),
        ("quiesce", CHECKPOINT_AND_END),
        ("place-files", RESTORE),
        ("quiesce", PARK),
        ("cuda-restore", UNPARK),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_attempt_has_touched_something_once_its_first_touching_phase_began(
    first_touching: str, sequence: PhaseSequence
) -> None:
    phases = [row.phase.value for row in sequence.rows]
    number = phases.index(first_touching)

    assert not sequence.touched([*phases[:number], "undo"])
    assert sequence.touched([*phases[: number + 1]])
    assert sequence.touched([*phases, "undo"])


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ((PhaseRow(Phase.GATE, 1.0), PhaseRow(Phase.GATE, 1.0, touches=True)), "a phase comes twice"),
        ((PhaseRow(Phase.GATE, 1.0),), "exactly one phase"),
        ((PhaseRow(Phase.GATE, 1.0, touches=True), PhaseRow(Phase.LOCK, 1.0, touches=True)), "exactly one phase"),
        ((PhaseRow(Phase.GATE, 1.0, irrevocable=True), PhaseRow(Phase.LOCK, 1.0, touches=True)), "can always fail"),
    ],
)
def test_a_sequence_that_breaks_its_rules_is_refused(rows: tuple[PhaseRow, ...], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        PhaseSequence("odd", "done", rows)


ROWS = (
    PhaseRow(Phase.GATE, 1.0),
    PhaseRow(Phase.LOCK, 1.0),
    PhaseRow(Phase.FILES, 1.0, Undo.TAKE_FILES_BACK, touches=True),
    PhaseRow(Phase.RESTORE, 5.0, Undo.KILL_RESTORED),
    PhaseRow(Phase.PROVE, 1.0),
)
SHORT = PhaseSequence("restore", "proven", ROWS)


class World:
    """Steps that take virtual time and, on demand, fail."""

    def __init__(self, directory: Path, took_s: Mapping[Phase, float], error: dict[Phase, Exception]) -> None:
        self.directory, self.took_s, self.error = directory, took_s, error
        self.now_s = 100.0
        self.undone: list[tuple[str, AttemptFacts]] = []

    def clock(self) -> float:
        return self.now_s

    def bound(self, keep_record: bool = False) -> BoundSequence:
        steps = {row.phase: self._step(row.phase) for row in ROWS}
        undos = {undo: self._undo(undo) for undo in Undo}
        return BoundSequence(SHORT, steps, undos, fallback="cold-start", keep_record=keep_record)

    def walk(self, keep_record: bool = False) -> Any:
        return walk(self.bound(keep_record), Attempt("restore"), clock=self.clock)

    def _step(self, phase: Phase) -> Any:
        def step(attempt: Attempt, deadline: Deadline) -> Mapping[str, Any]:
            if phase is Phase.LOCK:
                attempt.key = "pod-1"
                attempt.open_journal(self.directory)
            if phase is Phase.FILES:
                attempt.intend(placed={"etc/motd": True})
            self.now_s += self.took_s.get(phase, 0.25)
            if phase in self.error:
                raise self.error[phase]
            return {"ok": True}

        return step

    def _undo(self, undo: Undo) -> Any:
        def take_back(facts: AttemptFacts, deadline: Deadline) -> None:
            self.undone.append((undo.value, facts.copy()))
            self.now_s += 0.5

        return take_back


def test_a_walk_that_goes_well_accounts_for_every_moment(tmp_path: Path) -> None:
    result = World(tmp_path, {Phase.RESTORE: 2.0}, {}).walk()

    assert (result.outcome, result.reason, result.fallback) == ("proven", None, None)
    assert [(time.phase, time.began_s, time.took_s) for time in result.phases] == [
        ("gate", 0.0, 0.25),
        ("lock", 0.25, 0.25),
        ("place-files", 0.5, 0.25),
        ("criu-restore", 0.75, 2.0),
        ("prove", 2.75, 0.25),
    ]
    assert (result.total_s, result.unaccounted_s) == (3.0, 0.0)


def test_what_the_gate_refuses_touches_nothing_and_may_be_requested_again(tmp_path: Path) -> None:
    world = World(tmp_path, {}, {Phase.GATE: DriverError(Reason.FINGERPRINT_MISMATCH, "gpu count 1, not 2")})
    result = world.walk(keep_record=True)

    assert (result.outcome, result.reason, result.undone) == ("refused", "FingerprintMismatch", ())
    assert list(tmp_path.iterdir()) == []
    world.error.clear()
    assert world.walk().ok


def test_a_failure_undoes_its_own_phase_first_and_then_the_ones_before(tmp_path: Path) -> None:
    world = World(tmp_path, {}, {Phase.RESTORE: DriverError(Reason.CRIU_RESTORE_FAILED, "no")})
    result = world.walk()

    facts = {"placed": {"etc/motd": True}, "reason": "CriuRestoreFailed"}
    assert (result.outcome, result.phase, result.fallback) == ("failed", "criu-restore", "cold-start")
    assert world.undone == [("kill-restored", facts), ("take-files-back", facts)]


def test_a_phase_that_ends_too_late_has_failed(tmp_path: Path) -> None:
    result = World(tmp_path, {Phase.RESTORE: 5.5}, {}).walk()

    assert (result.outcome, result.reason) == ("failed", "DeadlineExceeded")
    assert result.detail == "phase criu-restore took longer than 5 s"


def test_a_full_disk_is_named_wherever_it_is_met(tmp_path: Path) -> None:
    result = World(tmp_path, {}, {Phase.FILES: OSError(28, "No space left on device")}).walk()

    assert result.reason == "DiskFull"


def test_a_failing_undo_is_reported_and_hides_neither_the_error_nor_the_other_undos(tmp_path: Path) -> None:
    world = World(tmp_path, {}, {Phase.PROVE: DriverError(Reason.PROOF_FAILED, "42 is not 41")})
    bound = world.bound()

    def broken(facts: AttemptFacts, deadline: Deadline) -> None:
        raise OSError("busy")

    result = walk(
        BoundSequence(SHORT, bound.steps, {**bound.undos, Undo.KILL_RESTORED: broken}),
        Attempt("restore"),
        clock=world.clock,
    )

    assert (result.reason, result.undone) == ("ProofFailed", ("kill-restored", "take-files-back"))
    assert result.undo_errors == ("kill-restored: OSError: busy",)
    assert [name for name, _ in world.undone] == ["take-files-back"]


def test_an_attempt_is_made_once(tmp_path: Path) -> None:
    """Restart loops end here: the same pod and snapshot again is refused, whether the first went well or not."""
    first = World(tmp_path, {}, {Phase.PROVE: DriverError(Reason.PROOF_FAILED, "no")}).walk(keep_record=True)
    second = World(tmp_path, {}, {}).walk(keep_record=True)

    assert (first.reason, second.outcome, second.reason) == ("ProofFailed", "refused", "AttemptedBefore")
    assert "ProofFailed" in second.detail


def test_two_at_once_are_one(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "restore", "pod-1")
    result = World(tmp_path, {}, {}).walk()

    assert (result.outcome, result.reason) == ("refused", "Busy")
    journal.close(forget=True)


@given(seed=st.integers(0, len(ROWS) - 1))
def test_a_journal_left_by_a_dead_driver_says_what_was_begun(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Whatever the phase the driver dies in, the journal names it, with the facts known before it acted."""
    directory = tmp_path_factory.mktemp("journals")
    journal = Journal.open(directory, "restore", "pod-1")
    for row in ROWS[: seed + 1]:
        journal.facts = {"place_key": row.phase.value}
        journal.begin(row.phase.value)
    journal.close(forget=False)
    [(path, fd)] = abandoned(directory)
    entry = read(path)
    Journal(path, fd).close(forget=True)

    assert entry.begun == tuple(row.phase.value for row in ROWS[: seed + 1])
    assert (entry.facts, entry.outcome) == ({"place_key": ROWS[seed].phase.value}, None)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "restore", "pod-1")
    journal.begin("criu-restore")
    with journal.path.open("a") as file:
        file.write('{"begin": "pro')
    entry = read(journal.path)
    journal.close(forget=True)

    assert entry.begun == ("criu-restore",)
