"""One target's requests meeting its replicas: the arrival stream and the engine, side by side.

`Serving` moves the engine through time in the pieces that the cluster asks for (a replica becomes
active at its own moment, not at the tick) and keeps what the metrics port reports.
"""

from __future__ import annotations

import numpy as np

from policies.arrays import FloatArray
from simulations.engine import Fleet
from simulations.engine.layout import DRAINING
from simulations.traces import ArrivalStream


class Serving:
    """The engine of one target, fed from its stream. Times are seconds from the replay's start."""

    def __init__(self, fleet: Fleet, stream: ArrivalStream, slots: int) -> None:
        self.fleet = fleet
        self.stream = stream
        self.slots = slots

    def advance(self, activations: tuple[tuple[float, int], ...], until_s: float) -> None:
        """Serve up to `until_s`; each of `activations` (time, slot) starts to serve at its time."""
        for at_s, slot in activations:
            self.fleet.advance(at_s, *self.stream.take_until(at_s))
            self.fleet.activate(slot, at_s)
        self.fleet.advance(until_s, *self.stream.take_until(until_s))

    def activate_now(self, slot: int) -> None:
        """Let a slot serve from the present moment on."""
        self.fleet.activate(slot, self.fleet.now_s)

    def drain(self, slot: int) -> None:
        """Let a slot take nothing new from the present moment on."""
        self.fleet.drain(slot, self.fleet.now_s)

    def undrain(self, slot: int) -> bool:
        """Let a draining slot serve again; False, and nothing changed, if it is empty and off by now."""
        if self.fleet.modes()[slot] != DRAINING:
            return False
        self.fleet.undrain(slot, self.fleet.now_s)
        return True

    def running(self) -> FloatArray:
        """Return requests running per slot."""
        return np.asarray(self.fleet.running_per_slot())

    def take_drained(self) -> list[tuple[int, float]]:
        """Return the slots that became empty since the last call, and when, in seconds."""
        return self.fleet.take_drained()
