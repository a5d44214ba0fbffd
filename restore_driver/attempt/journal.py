"""Journal of one attempt on disk: its lock, what it is about to do, how it ended.

One file a key, in a directory that only root may enter; the key names what is worked on (one replica, or one pod and
snapshot), so that no two attempts of whatever kind work on the same. The file is the lock (flock), so the kernel frees
it when the driver dies at whatever line. Lines are JSON: first sequence and key, then `begin` of each phase with all
facts known before the phase acts (write-ahead), last `end` with the outcome. A file without `end` that is not locked
was left by a killed driver: `recovery.py` runs its undos and ends it.

A page cache survives `kill -9`, so no fsync is needed against the death of the driver; the directory lies on tmpfs
(/run), so that nothing of it survives the death of the machine, and neither do the processes it speaks of.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from restore_driver.attempt.facts import AttemptFacts
from restore_driver.errors import DriverError, Reason
from restore_driver.host.disk import write_all


@dataclass(frozen=True)
class JournalRecord:
    """The content of a journal file."""

    sequence: str
    key: str
    begun: tuple[str, ...]
    facts: AttemptFacts
    outcome: Mapping[str, Any] | None


@dataclass
class Journal:
    """An attempt's journal, locked while this object is open."""

    path: Path
    fd: int
    facts: AttemptFacts = field(default_factory=AttemptFacts)

    @classmethod
    def open(cls, directory: Path, sequence: str, key: str) -> Journal:
        """Take the lock and begin the record.

        Raises:
            DriverError: BUSY while another attempt with this key runs; ATTEMPTED_BEFORE when one ended.
        """
        path = path_of(directory, key)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _lock(fd, path, key)
                if not _is_named(path, fd):  # its owner ended, and forgot it, between the opening and the lock
                    os.close(fd)
                    continue
                _refuse_what_ended(fd, path, key)
                journal = cls(path, fd)
                journal._write({"sequence": sequence, "key": key, "driver_pid": os.getpid()})
            except BaseException:
                os.close(fd)
                raise
            return journal

    def begin(self, phase: str) -> None:
        """Write that a phase begins, with all facts known by now."""
        self._write({"begin": phase, "facts": self.facts})

    def intend(self, **facts: Unpack[AttemptFacts]) -> None:
        """Write facts of the running phase before it acts on them."""
        self.facts.update(facts)
        self._write({"facts": self.facts})

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Write how the attempt ended."""
        self._write({"end": dict(outcome)})

    def close(self, *, forget: bool) -> None:
        """Release the lock; `forget` removes the record, so that the same may be requested again."""
        if forget:
            self.path.unlink(missing_ok=True)
        os.close(self.fd)

    def _write(self, line: Mapping[str, Any]) -> None:
        write_all(self.fd, (json.dumps(line) + "\n").encode())


def path_of(directory: Path, key: str) -> Path:
    """Return the path of a key's journal."""
    return directory / f"{key}.jsonl"


def _lock(fd: int, path: Path, key: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        doing = read(path).sequence or "attempt"
        raise DriverError(Reason.BUSY, f"a {doing} of {key} is running", "wait for its end") from None


def _is_named(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _refuse_what_ended(fd: int, path: Path, key: str) -> None:
    if not os.fstat(fd).st_size:
        return
    before = read(path)
    outcome = (before.outcome or {}).get("reason") or (before.outcome or {}).get("outcome") or "its driver died"
    raise DriverError(
        Reason.ATTEMPTED_BEFORE,
        f"{before.sequence} of {key} was tried before: {outcome}",
        f"start cold, or remove {path}",
    )


def read(path: Path) -> JournalRecord:
    """Return the content of a journal, without a line torn by a crash."""
    sequence, key, begun, facts, outcome = "", "", [], AttemptFacts(), None
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        sequence, key = line.get("sequence", sequence), line.get("key", key)
        facts = line.get("facts", facts)
        outcome = line.get("end", outcome)
        if "begin" in line:
            begun.append(line["begin"])
    return JournalRecord(sequence, key, tuple(begun), facts, outcome)


def abandoned(directory: Path) -> tuple[tuple[Path, int], ...]:
    """Lock and return journals of killed drivers, those without an end and without a lock: (path, descriptor)."""
    found = []
    for path in sorted(directory.glob("*.jsonl")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if _is_named(path, fd) and read(path).outcome is None:
            _end_torn_line(fd)
            found.append((path, fd))
        else:
            os.close(fd)
    return tuple(found)


def _end_torn_line(fd: int) -> None:
    """End a torn line: what is written next would be lost with it."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.pwrite(fd, b"\n", size)
