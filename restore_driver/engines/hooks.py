"""The port of all engines: two hooks, what they receive besides their spec, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict

HookDetails = Mapping[str, Any]
"""What a hook adds to the result: JSON values by name."""


class EngineMemory(TypedDict, total=False):
    """Journaled state of the GPU memory of an engine that cannot be asked for it (SGLang)."""

    released: bool
    """It was asked to release its memory."""
    memory_back: bool
    """A resume that failed later has taken the memory back; its content is lost."""


Note = Callable[[EngineMemory], None]
"""Keeps facts where the next driver finds them (the attempt's journal), before what they announce is done."""


def keep_nothing(facts: EngineMemory) -> None:
    """Discard facts: a `Note` for callers that resume what they quiesced, or nothing."""


@dataclass(frozen=True)
class ProcessRoot:
    """A replica's first process as this pid namespace numbers it, and its root directory as seen from here."""

    host_pid: int
    root: Path


@dataclass(frozen=True)
class ResumeState:
    """What a resume must know of the replica's weights and memory."""

    leases: Mapping[str, str] = field(default_factory=dict)
    """Model -> lease of the weights that a holder has put on the GPU."""
    released: bool = True
    """The engine was asked to release its memory; SGLang dies of a resume without a release. False only for an undo
    whose quiesce did not note `released`."""
    memory_back: bool = False
    """See `EngineMemory.memory_back`."""


NOTHING_LOADED = ResumeState()


class Engine(Protocol):
    """The hooks of one replica's engine.

    Both are idempotent: quiescing a quiesced engine, or resuming a running one, changes nothing, since an undo resumes
    an engine that was perhaps never quiesced. Both raise DriverError: QUIESCE_FAILED or RESUME_FAILED,
    DEADLINE_EXCEEDED, REPLICA_LOST.
    """

    def quiesce(self, process: ProcessRoot, deadline_s: float, note: Note) -> HookDetails:
        """Finish or end running requests and release what need not be checkpointed."""
        ...

    def resume(self, process: ProcessRoot, deadline_s: float, state: ResumeState, note: Note) -> HookDetails:
        """Take the memory back and serve again."""
        ...
