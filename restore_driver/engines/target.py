"""Where a replica is reached, and what its hooks are told besides their spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
"""What a hook tells for the result: JSON values by name."""

Note = Callable[[Mapping[str, Any]], None]
"""Keeps facts where the next driver finds them (the attempt's journal), before what they announce is done."""


def keep_nothing(facts: Mapping[str, Any]) -> None:
    """A `Note` for callers that wake what they brought to rest, or nothing."""


@dataclass(frozen=True)
class Target:
    """A replica's first process as this pid namespace numbers it, and its root as we see it."""

    host_pid: int
    root: Path


@dataclass(frozen=True)
class Waking:
    """What a resume is told besides."""

    leases: Mapping[str, str] = field(default_factory=dict)
    """Model -> lease of the weights that a holder has put on the card."""
    released: bool = True
    """Whether the engine was told to give up its memory (SGLang can't be asked, and dies when told to take back what
    it has). Untrue only for an undo: its quiesce's `Note` never said `released`."""
    memory_back: bool = False
    """Whether a waking that failed later took that memory back, by its `Note`; what the memory holds is lost still."""
