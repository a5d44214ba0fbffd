"""The library's door: a request in, a result out; and what a killed driver left, taken back.

    tools = open_tools()
    driver = Driver(tools)
    driver.recover()
    result = driver.carry_out(RestoreRequest(artifact=..., placeholder_pid=...))

The agent and the command line do just this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from restore_driver.errors import Reason
from restore_driver.host.hugepages import put_back_stale
from restore_driver.journal import Journal, read
from restore_driver.journal import abandoned as abandoned_journals
from restore_driver.phases import TABLES, Phase
from restore_driver.requests import (
    AnyRequest,
    CheckpointRequest,
    ParkRequest,
    RestoreRequest,
    UnparkRequest,
    table_of,
)
from restore_driver.sequence import Attempt, Observer, Plan, Result, Step, undo_phases, walk
from restore_driver.steps.dumping import Dumping
from restore_driver.steps.parking import Parking, Unparking
from restore_driver.steps.restoring import Restoring
from restore_driver.steps.undo import make_undos
from restore_driver.tools import Tools

COLD_START = "cold-start"
"""What a result asks for when no replica could be had from a snapshot."""


@dataclass(frozen=True)
class Recovered:
    """What was taken back of one attempt whose driver died."""

    attempt: str
    phases: tuple[str, ...]
    undone: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Driver:
    """Carries out requests with one set of tools; may be used from several threads at once."""

    tools: Tools

    def carry_out(self, request: AnyRequest, observe: Observer = lambda *_: None) -> Result:
        """Walks the request's table; never raises for what goes wrong on the way: the result says it."""
        name = table_of(request)
        keeps = isinstance(request, RestoreRequest)
        plan = Plan(
            sequence=name,
            rows=TABLES[name],
            steps=self._steps(request, name),
            undos=make_undos(self.tools),
            deadlines_s=request.deadlines_s,
            fallback=COLD_START if isinstance(request, RestoreRequest | UnparkRequest) else None,
            keep_record=keeps,
        )
        return walk(plan, Attempt(), observe=observe)

    def recover(self) -> tuple[Recovered, ...]:
        """Takes back what drivers that were killed left half done; safe beside running ones, and to repeat."""
        put_back_stale(self.tools.state.huge_pages)
        return tuple(self._recover_one(path, fd) for path, fd in abandoned_journals(self.tools.state.attempts))

    def _recover_one(self, path: Path, fd: int) -> Recovered:
        entry = read(path)
        journal = Journal(path, fd, entry.facts)
        os.lseek(fd, 0, os.SEEK_END)
        rows = TABLES.get(entry.sequence, ())
        undone, errors = undo_phases(rows, list(entry.begun), make_undos(self.tools), entry.facts)
        reason = Reason.DRIVER_DIED.value
        journal.end({"outcome": "failed", "reason": reason, "detail": f"in phase {(entry.begun or ('lock',))[-1]}"})
        journal.close(forget=entry.sequence != "restore")
        return Recovered(path.stem, entry.begun, undone, errors)

    def _steps(self, request: AnyRequest, name: str) -> Mapping[Phase, Step]:
        if isinstance(request, CheckpointRequest):
            return Dumping(self.tools, request, name).steps()
        if isinstance(request, ParkRequest):
            return Parking(self.tools, request).steps()
        if isinstance(request, UnparkRequest):
            return Unparking(self.tools, request).steps()
        return Restoring(self.tools, request).steps()
