"""Several requests for one replica, and drivers that die in between: one works, and none undoes what another did."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable

import pytest

from restore_driver.driver import Driver
from restore_driver.host import proc
from restore_driver.wire.requests import CheckpointRequest, ParkRequest
from restore_driver.wire.result import Result
from tests.restore_driver.gpu_sequences.conftest import GPUS, Ready, answer, killed_driver
from tests.restore_driver.gpu_sequences.test_park import OUT_OF_MEMORY, at


@pytest.mark.parametrize("other", ["park", "unpark", "checkpoint"])
def test_while_a_replica_is_checkpointed_nobody_else_works_on_it(other: str, ready: Ready) -> None:
    card = ready()
    meanwhile: list[Result] = []

    def ask() -> None:
        requests: dict[str, Callable[[], Result]] = {
            "park": card.park,
            "unpark": card.unpark,
            "checkpoint": lambda: card.checkpoint(end=True),
        }
        meanwhile.append(requests[other]())

    made = card.checkpoint(end=False, observe=at("criu-dump", ask))

    assert made.outcome == "published"
    assert meanwhile[0].outcome == "refused"
    assert meanwhile[0].reason == ("RequestInvalid" if other == "unpark" else "Busy")
    assert meanwhile[0].fallback is None
    assert answer(card.replica) is not None


def test_a_parked_replica_is_not_checkpointed(ready: Ready) -> None:
    card = ready()
    card.park()
    refused = card.checkpoint(end=True)

    assert (refused.outcome, refused.phase, refused.hint) == ("refused", "gate", "unpark it")
    assert card.unpark().outcome == "proven"


def test_a_park_that_was_cut_off_at_its_last_line_is_forgotten_with_its_record(ready: Ready) -> None:
    """Recovered, it serves; a record that stayed would let the next unpark end it."""
    card = ready()
    killed_driver(card, ParkRequest(pid=card.replica.pid, replica=card.spec), "memory-free", "end")
    recovered = card.another_driver().recover()

    assert [each.errors for each in recovered] == [()]
    assert card.cuda_state() == "running"
    refused = card.unpark()
    assert (refused.outcome, refused.hint) == ("refused", "park it first")
    assert answer(card.replica) is not None


def test_a_replica_that_somebody_else_woke_is_not_unparked_again(ready: Ready) -> None:
    card = ready()
    card.park()
    card.stand_in.set_state(card.replica.pid, "running")
    refused = card.unpark()

    assert (refused.outcome, refused.reason, refused.fallback) == ("refused", "RequestInvalid", None)
    assert proc.is_alive(card.replica.pid)


def test_a_worker_that_ended_while_it_was_parked_is_not_missed(ready: Ready) -> None:
    card = ready()
    card.park()
    path = card.driver.tools.state.parked / f"{card.replica.pid}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "cuda_pids": [*record["cuda_pids"], nobody()]}))

    assert card.unpark().outcome == "proven"


def nobody() -> int:
    """A PID that is nobody's."""
    return next(pid for pid in range(2_000_000, 3_000_000) if not os.path.exists(f"/proc/{pid}"))


def test_going_on_that_fails_leaves_the_card_to_the_undo(ready: Ready) -> None:
    """On a card with room for one model, the failed attempt must not keep what its undo needs."""
    card = ready(card_bytes=(512 << 20) + (5 << 20))
    before = answer(card.replica)
    card.stand_in.fault("restore", card.replica.pid, OUT_OF_MEMORY)

    def fix() -> None:
        card.stand_in.fix("restore", card.replica.pid)

    result = card.checkpoint(end=False, observe=at("restore-cuda", fix, "undo"))

    assert (result.outcome, result.phase, result.undo_errors) == ("failed", "continue", ())
    assert (answer(card.replica), card.leases()) == (before, 0)


def test_without_a_way_to_cuda_nothing_is_forgotten(ready: Ready) -> None:
    """A look that can't bring CUDA back says so, and the next one that can does."""
    card = ready()
    killed_driver(card, ParkRequest(pid=card.replica.pid, replica=card.spec), "memory-free")
    blind = Driver(dataclasses.replace(card.driver.tools, cuda=None, cuda_missing="no helper"))
    first = blind.recover()

    assert [sentence for each in first for sentence in each.errors if "CudaMissing" in sentence]
    assert card.cuda_state() == "checkpointed"
    assert [each.errors for each in card.another_driver().recover()] == [()]
    assert (card.cuda_state(), answer(card.replica) is not None) == ("running", True)


def test_a_replica_that_needs_more_than_its_card_has_is_refused_at_the_gate(ready: Ready) -> None:
    """It held 64 MiB; fifteen others of that size and itself are all that the card of 1 GiB takes."""
    card = ready()
    assert card.park().outcome == "parked"
    others = [card.stand_in.spawn() for _ in range(16)]
    refused = card.unpark()

    assert (refused.outcome, refused.phase, refused.reason) == ("refused", "gate", "TooLittleMemory")
    assert (refused.fallback, card.cuda_state()) == ("cold-start", "checkpointed")
    assert len(others) == 16


def test_each_replica_s_own_card_is_preferred(ready: Ready) -> None:
    """Without a wish, a snapshot of the second card comes back on the second card."""
    card = ready()
    request = CheckpointRequest(
        pid=card.replica.pid, artifact=card.artifact, replica=card.spec, leave_running=False, gpus=(GPUS[1].uuid,)
    )
    assert card.driver.carry_out(request).outcome == "ended"
    from restore_driver.artifact.manifest import load_manifest
    from restore_driver.steps.restore import RestoreSteps
    from restore_driver.wire.requests import RestoreRequest

    restoring = RestoreSteps(card.driver.tools, RestoreRequest(artifact=card.artifact, placeholder_pid=os.getpid()))

    assert restoring._gpus(load_manifest(card.artifact).fingerprint.gpus) == (GPUS[1],)
