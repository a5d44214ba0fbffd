"""The library's door: a request in, a result out; and what a killed driver left, taken back.

    tools = open_tools()
    driver = Driver(tools)
    driver.recover()
    result = driver.carry_out(RestoreRequest(artifact=..., placeholder_pid=...))

The agent and the command line do just this.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from restore_driver.attempt import recovery
from restore_driver.attempt.phases import TABLES, Phase
from restore_driver.attempt.recovery import Recovered
from restore_driver.attempt.walk import Attempt, Observer, Plan, Result, Step, walk
from restore_driver.steps.dump import Dumping
from restore_driver.steps.park import Parking, Unparking
from restore_driver.steps.restore import Restoring, restored_before
from restore_driver.steps.rollback import make_undos
from restore_driver.tools import Tools
from restore_driver.wire.requests import (
    AnyRequest,
    CheckpointRequest,
    ParkRequest,
    RestoreRequest,
    UnparkRequest,
    table_of,
)

COLD_START = "cold-start"
"""What a result asks for when no replica could be had from a snapshot."""


@dataclass(frozen=True)
class Driver:
    """Carries out requests with one set of tools; may be used from several threads at once."""

    tools: Tools

    def carry_out(self, request: AnyRequest, observe: Observer = lambda *_: None) -> Result:
        """Walks the request's table; never raises for what goes wrong on the way: the result says it.

        A restore that was made already, and whose replica lives, is answered with that one.
        """
        name = table_of(request)
        keeps = isinstance(request, RestoreRequest)
        if isinstance(request, RestoreRequest):
            began_s = time.monotonic()
            answer = restored_before(self.tools, request)
            if answer is not None:
                took_s = time.monotonic() - began_s
                rows = TABLES[name]
                return Result(
                    sequence=name, outcome=rows[-1].next, total_s=took_s, unaccounted_s=took_s, phases=(), answer=answer
                )
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
        return recovery.recover(self.tools.state, make_undos(self.tools))

    def _steps(self, request: AnyRequest, name: str) -> Mapping[Phase, Step]:
        if isinstance(request, CheckpointRequest):
            return Dumping(self.tools, request, name).steps()
        if isinstance(request, ParkRequest):
            return Parking(self.tools, request).steps()
        if isinstance(request, UnparkRequest):
            return Unparking(self.tools, request).steps()
        return Restoring(self.tools, request).steps()
