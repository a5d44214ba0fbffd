"""The journal of an attempt: its file is its lock, and every whole line counts after its writer was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.attempt import journal as journals
from restore_driver.attempt.facts import AttemptFacts
from restore_driver.attempt.journal import Journal, abandoned, path_of, read
from restore_driver.errors import DriverError, Reason
from restore_driver.host.flock import try_lock

ROOT = Path(__file__).parents[3]
PHASES = ["gate", "lock", "seal", "weights-load", "place-files"]
FACTS = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=3)
END = {"outcome": "failed", "reason": "DriverDied", "detail": "in phase seal"}


def written(directory: Path, facts: list[AttemptFacts]) -> Path:
    """A journal whose driver is gone, one phase for each of these facts."""
    journal = Journal.open(directory, "restore", "pod-1")
    for phase, known in zip(PHASES, facts, strict=False):
        journal.facts = known
        journal.begin(phase)
    journal.close(forget=False)
    return journal.path


@given(facts=st.lists(FACTS, min_size=1, max_size=5), data=st.data())
def test_torn_at_any_byte_its_whole_lines_count_and_it_can_still_be_ended(
    facts: list[AttemptFacts], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """kill -9, or a full disk, in the middle of a line; the next driver ends the record, and it stays ended."""
    directory = tmp_path_factory.mktemp("journals")
    path = written(directory, facts)
    whole = path.read_bytes()
    end = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:end])
    begun = max(whole[:end].count(b"\n") - 1, 0)
    if end and not whole[:end].endswith(b"\n") and whole[end : end + 1] == b"\n":
        begun += whole[:end].count(b"\n") > 0  # only the line's end is missing
    before = read(path)
    [(found, fd)] = abandoned(directory)
    os.lseek(fd, 0, os.SEEK_END)
    journal = Journal(found, fd, before.facts)
    journal.end(END)
    journal.close(forget=False)

    assert (before.begun, before.outcome) == (tuple(PHASES[:begun]), None)
    assert before.facts == (facts[begun - 1] if begun else {})
    assert (read(path).begun, read(path).facts, read(path).outcome) == (before.begun, before.facts, END)
    assert abandoned(directory) == ()


def test_a_journal_is_locked_while_open_and_removed_on_request(tmp_path: Path) -> None:
    first = Journal.open(tmp_path, "checkpoint", "replica-7")
    with pytest.raises(DriverError) as busy:
        Journal.open(tmp_path, "park", "replica-7")
    other = Journal.open(tmp_path, "park", "replica-8")
    at_work = abandoned(tmp_path)
    first.end({"outcome": "published"})
    first.close(forget=True)
    again = Journal.open(tmp_path, "park", "replica-7")
    for journal in (other, again):
        journal.close(forget=True)

    assert (busy.value.reason, busy.value.detail) == (Reason.BUSY, "a checkpoint of replica-7 is running")
    assert at_work == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ({"outcome": "failed", "reason": "ProofFailed"}, "ProofFailed"),
        ({"outcome": "proven", "reason": None}, "proven"),
    ],
)
def test_an_ended_attempt_is_refused_with_its_outcome(outcome: dict[str, Any], shown: str, tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "restore", "pod-1")
    journal.end(outcome)
    journal.close(forget=False)
    with pytest.raises(DriverError) as caught:
        Journal.open(tmp_path, "restore", "pod-1")

    assert caught.value.reason is Reason.ATTEMPTED_BEFORE
    assert caught.value.detail == f"restore of pod-1 was tried before: {shown}"
    assert abandoned(tmp_path) == ()


def forget_first(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The owner ends and forgets its journal between our opening and our lock."""
    left = [path]

    def lock(fd: int) -> bool:
        if left:
            left.pop().unlink()
        return try_lock(fd)

    monkeypatch.setattr(journals, "try_lock", lock)


def test_a_journal_removed_while_it_is_opened_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on an unlinked file would allow two attempts with the same key."""
    path = written(tmp_path, [{}])
    forget_first(monkeypatch, path)
    journal = Journal.open(tmp_path, "restore", "pod-1")
    with pytest.raises(DriverError) as busy:
        Journal.open(tmp_path, "restore", "pod-1")
    named = os.stat(path).st_ino == os.fstat(journal.fd).st_ino
    journal.close(forget=True)

    assert (named, busy.value.reason) == (True, Reason.BUSY)


def test_a_journal_removed_during_the_search_is_not_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_first(monkeypatch, written(tmp_path, [{}]))

    assert abandoned(tmp_path) == ()


def test_the_lock_of_a_killed_driver_is_released(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from restore_driver.attempt.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1]), 'restore', 'pod-1'); journal.intend(placeholder_pid=7)\n"
        "print('open', flush=True); time.sleep(1000)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        alive = abandoned(tmp_path)
        driver.send_signal(signal.SIGKILL)
    [(path, fd)] = abandoned(tmp_path)
    entry = read(path)
    os.close(fd)

    assert (alive, path) == ((), path_of(tmp_path, "pod-1"))
    assert (entry.sequence, entry.key, entry.facts, entry.outcome) == ("restore", "pod-1", {"placeholder_pid": 7}, None)
