"""A step reads fields that an earlier phase has provided; reading another one is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.attempt.context import (
    Attempt,
    Context,
    DumpContext,
    ParkContext,
    RestoreContext,
    UnparkContext,
    provided_by,
)
from restore_driver.attempt.facts import AttemptFacts
from restore_driver.attempt.journal import Journal, read
from restore_driver.attempt.phases import CHECKPOINT, CHECKPOINT_AND_END, PARK, RESTORE, UNPARK, PhaseRow, PhaseSequence
from restore_driver.attempt.walk import BoundSequence, walk
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.phase import Phase

CONTEXTS: list[tuple[type[Context], PhaseSequence]] = [
    (DumpContext, CHECKPOINT),
    (DumpContext, CHECKPOINT_AND_END),
    (ParkContext, PARK),
    (RestoreContext, RESTORE),
    (UnparkContext, UNPARK),
]


@dataclasses.dataclass(repr=False, eq=False)
class Small(Context):
    pids: tuple[int, ...] = provided_by(Phase.GATE)
    digest: str = provided_by(Phase.SEAL)


def test_a_provided_field_is_read_back() -> None:
    context = Small()
    context.pids = (1, 2)

    assert context.pids == (1, 2)


def test_a_field_read_too_early_is_refused_by_its_name_and_its_phase() -> None:
    with pytest.raises(DriverError) as caught:
        Small().digest  # noqa: B018

    assert caught.value.reason is Reason.INTERNAL
    assert caught.value.detail == "Small.digest is read before phase seal has provided it"


def test_a_field_that_no_context_declares_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no field surprise"):
        Small().surprise  # type: ignore[attr-defined]  # noqa: B018


def test_a_walk_whose_step_reads_too_early_fails_with_field_and_phase() -> None:
    sequence = PhaseSequence("restore", "proven", (PhaseRow(Phase.GATE, 1.0), PhaseRow(Phase.FILES, 1.0, touches=True)))
    context = Small()

    def gate(attempt: Attempt, deadline: Deadline) -> Mapping[str, Any]:
        return {"digest": context.digest}

    result = walk(BoundSequence(sequence, {Phase.GATE: gate}, {}), Attempt("restore"))

    assert (result.outcome, result.reason, result.phase) == ("refused", "InternalError", "gate")
    assert result.detail == "Small.digest is read before phase seal has provided it"


@pytest.mark.parametrize(("context", "sequence"), CONTEXTS, ids=lambda value: getattr(value, "name", None))
def test_every_field_is_provided_by_a_phase_of_its_sequence(context: type[Context], sequence: PhaseSequence) -> None:
    phases = {row.phase for row in sequence.rows}

    assert {field.name for field in dataclasses.fields(context) if field.metadata["phase"] not in phases} == set()


numbers = st.integers(0, 2**31)
facts = st.fixed_dictionaries(
    {},
    optional={
        "pid": numbers,
        "start_ticks": numbers,
        "replica": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
        "quiesced": st.booleans(),
        "cuda_pids": st.lists(numbers, max_size=3),
        "draft": st.text(max_size=8),
        "leases": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
        "placed": st.dictionaries(st.text(max_size=5), st.booleans(), max_size=2),
        "present": st.dictionaries(numbers.map(str), numbers, max_size=3),
    },
)


@given(noted=st.lists(facts, min_size=1, max_size=4))
def test_facts_survive_a_killed_driver(noted: list[AttemptFacts], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The journal of a killed driver holds the union of all noted facts, the last value of each."""
    attempt = Attempt("restore", "pod-1")
    attempt.open_journal(tmp_path_factory.mktemp("journals"))
    expected: dict[str, Any] = {}
    for each in noted:
        attempt.intend(**each)
        expected |= each
    journal = attempt.journal
    assert journal is not None
    found = read(journal.path)
    journal.close(forget=False)

    assert (found.sequence, found.key, found.facts, found.outcome) == ("restore", "pod-1", expected, None)


def test_facts_noted_before_the_lock_are_journaled_with_the_next_phase(tmp_path: Path) -> None:
    attempt = Attempt("checkpoint", "replica-7")
    attempt.intend(pid=7)
    attempt.open_journal(tmp_path)
    attempt.begin("record")
    journal = attempt.journal
    assert isinstance(journal, Journal)
    found = read(journal.path)
    journal.close(forget=True)

    assert (found.begun, found.facts) == (("record",), {"pid": 7})
