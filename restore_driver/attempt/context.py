"""What the steps of one attempt share: typed values that live as long as the attempt, and the attempt's record.

A context declares each value together with the phase that provides it. mypy checks the types; a step that reads a value
before its phase has provided it is refused with the names of both, instead of with a KeyError far from the cause.
Facts that an undo needs after the death of the driver are journaled instead (`facts.py`).
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from restore_driver.artifact.manifest import Manifest, ProcessTree
from restore_driver.artifact.publish import Draft
from restore_driver.attempt.facts import AttemptFacts
from restore_driver.attempt.journal import Journal
from restore_driver.attempt.parked_records import ParkedRecord
from restore_driver.cuda import DeviceMap, MemoryProof, MemoryReading
from restore_driver.errors import DriverError, Reason
from restore_driver.proof.prove import ProofRecord
from restore_driver.weights.loading import Loading
from restore_driver.wire.phase import Phase
from restore_driver.wire.replica_spec import ReplicaSpec


@dataclass
class Attempt:
    """One run of a sequence: its journal, its answer, and what must be released when it ends."""

    sequence: str
    key: str = ""
    """Names what is worked on; two attempts with one key exclude each other."""
    facts: AttemptFacts = field(default_factory=AttemptFacts)
    answer: dict[str, Any] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    """Closed when the attempt has ended, after its undos."""
    warnings: list[str] = field(default_factory=list)
    """Side effects that failed; reported in the result without changing its outcome."""
    journal: Journal | None = None

    def open_journal(self, directory: Path) -> None:
        """Take the lock of this attempt's key and begin its record.

        Raises:
            DriverError: BUSY, ATTEMPTED_BEFORE.
        """
        self.journal = Journal.open(directory, self.sequence, self.key)

    def begin(self, phase: str) -> None:
        """Note on disk that a phase begins, with all facts known by now."""
        if self.journal is not None:
            self.journal.facts = self.facts
            self.journal.begin(phase)

    def intend(self, **facts: Unpack[AttemptFacts]) -> None:
        """Note facts on disk before the running phase acts on them."""
        self.facts.update(facts)
        if self.journal is not None:
            self.journal.intend(**facts)


def provided_by(phase: Phase) -> Any:
    """Declare a context's field that `phase` sets and later phases read."""
    return field(init=False, metadata={"phase": phase})


@dataclass(repr=False, eq=False)
class Context:
    """Values by field, each missing until its phase has provided it."""

    if not TYPE_CHECKING:  # mypy would accept any misspelt field otherwise

        def __getattr__(self, name: str) -> Any:
            """Refuse a field that is not set yet.

            Raises:
                DriverError: INTERNAL, naming the field and the phase that provides it.
            """
            for declared in dataclasses.fields(self):
                if declared.name == name:
                    phase = declared.metadata["phase"]
                    raise DriverError(
                        Reason.INTERNAL,
                        f"{type(self).__name__}.{name} is read before phase {phase.value} has provided it",
                        "report this: the steps of the sequence do not fit its order",
                    )
            raise AttributeError(f"{type(self).__name__} has no field {name}")


@dataclass(repr=False, eq=False)
class LiveContext(Context):
    """Checkpoint and park: a live replica on its way off the GPU."""

    pids: tuple[int, ...] = provided_by(Phase.GATE)
    """The replica's process tree; read again after quiesce and after the dump, when processes may have ended."""
    memory: MemoryReading | None = provided_by(Phase.GATE)
    """GPU memory while the replica serves; None without CUDA."""
    device_bytes: int = provided_by(Phase.GATE)
    """GPU memory that the tree holds while it serves; 0 where it is not known."""
    proof: ProofRecord = provided_by(Phase.RECORD)


@dataclass(repr=False, eq=False)
class DumpContext(LiveContext):
    """Checkpoint: the draft and what was dumped into it."""

    draft: Draft = provided_by(Phase.DRAFT)
    process: ProcessTree = provided_by(Phase.DUMP)
    cuda_inside: tuple[int, ...] = provided_by(Phase.DUMP)
    """CUDA processes, as the replica's own pid namespace numbers them."""
    image_bytes: int = provided_by(Phase.DUMP)
    compacted_bytes: int = provided_by(Phase.COMPACT)


@dataclass(repr=False, eq=False)
class ParkContext(LiveContext):
    """Park: the GPU memory before, for the comparison after."""

    memory_proof: MemoryProof = provided_by(Phase.GATE)


@dataclass(repr=False, eq=False)
class ResumeContext(Context):
    """Restore and unpark: a replica on its way back onto its GPUs."""

    replica: ReplicaSpec = provided_by(Phase.GATE)
    proof: ProofRecord = provided_by(Phase.GATE)
    gpus: tuple[str, ...] = provided_by(Phase.GATE)
    """UUIDs of the GPUs that the replica gets, in its own order."""
    device_map: DeviceMap | None = provided_by(Phase.GATE)
    host_pid: int = provided_by(Phase.GATE)
    """The replica's first process, as the driver's pid namespace numbers it."""
    cuda_host_pids: tuple[int, ...] = provided_by(Phase.GATE)
    loading: Loading = provided_by(Phase.WEIGHTS)


@dataclass(repr=False, eq=False)
class UnparkContext(ResumeContext):
    """Unpark: the processes are there, so the gate provides all."""

    record: ParkedRecord = provided_by(Phase.GATE)


@dataclass(repr=False, eq=False)
class RestoreContext(ResumeContext):
    """Restore: spec and proof are trusted once the seal is checked, and processes are there once CRIU is done."""

    artifact: Path = provided_by(Phase.GATE)
    """The artifact's directory by its descriptor: what is published under its name meanwhile is another one."""
    manifest: Manifest = provided_by(Phase.GATE)
    digest: str = provided_by(Phase.GATE)
    namespace: int = provided_by(Phase.GATE)
    """Inode of the placeholder's pid namespace."""
    replica: ReplicaSpec = provided_by(Phase.SEAL)
    proof: ProofRecord = provided_by(Phase.SEAL)
    host_pid: int = provided_by(Phase.RESTORE)
    cuda_host_pids: tuple[int, ...] = provided_by(Phase.RESTORE)
    restored: dict[int, tuple[int, int]] = provided_by(Phase.RESTORE)
    """PID within the placeholder -> PID and start in ticks outside, for each restored process."""
