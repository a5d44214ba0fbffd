"""A replica whose step outlasts the driver's deadline: it is not parked, and keeps serving."""

from __future__ import annotations

import threading
from typing import Any

from tests.restore_driver.gpu_sequences import conftest as sequences
from tests.restore_driver.gpu_sequences.conftest import Ready, answer
from tests.restore_driver.waiting import eventually

begin, built_driver, client = sequences.begin, sequences.built_driver, sequences.client
criu, ready, stand_in, state = sequences.criu, sequences.ready, sequences.stand_in, sequences.state


def test_a_step_longer_than_the_deadline_is_not_unmapped(ready: Ready) -> None:
    """Neither while it runs nor when it ends, which is after the undo; the next park finds all as ever."""
    machine, served = ready(), list[Any]()
    before = answer(machine.replica)
    step = threading.Thread(target=lambda: served.append(machine.replica.ask("GET", "/long")))
    step.start()
    eventually(lambda: (machine.replica.directory / "long").exists(), "the step")
    failed = machine.park(quiesce=0.3)

    assert (failed.outcome, failed.phase, failed.undo_errors) == ("failed", "quiesce", ())
    assert "a step did not end in time" in (failed.detail or "")
    assert answer(machine.replica) == before
    assert (machine.cuda_state(), machine.leases()) == ("running", 0)

    machine.replica.ask("POST", "/enough")
    step.join(20.0)
    assert (served, answer(machine.replica)) == ([before], before)
    assert (machine.park().outcome, machine.unpark().outcome) == ("parked", "proven")
