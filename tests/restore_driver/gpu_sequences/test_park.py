"""park and unpark: a live replica gives up its card and takes it back, and every way in which that can fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from restore_driver.attempt.phases import PARK, UNPARK
from restore_driver.host import proc
from restore_driver.weights.client import HolderClient
from restore_driver.wire.requests import ParkRequest, UnparkRequest
from restore_driver.wire.result import Result
from tests.restore_driver.gpu_sequences.conftest import Ready, answer, is_quiet_for, killed_driver
from tests.restore_driver.waiting import eventually

OUT_OF_MEMORY = 2


def at(phase: str, do: Callable[[], None], event: str = "begin") -> Callable[[str, str], None]:
    """Calls `do` as a phase begins (or ends)."""

    def observe(happened: str, begun: str) -> None:
        if (happened, begun) == (event, phase):
            do()

    return observe


def phase(result: Result, name: str) -> dict[str, object]:
    return next(each.details for each in result.phases if each.phase == name)


def test_a_timeline_of_parking(ready: Ready) -> None:
    """Serves, parks (off the card, proven), waits, unparks, serves on: with its count and with its weights."""
    card = ready()
    for _ in range(3):
        card.replica.ask("POST", "/increment")
    before = answer(card.replica)

    parked = card.park()
    assert (parked.outcome, parked.reason) == ("parked", None)
    assert [each.phase for each in parked.phases] == [row.phase.value for row in PARK.rows]
    assert phase(parked, "memory-free")["witness"] == "process-list"
    assert phase(parked, "memory-free")["freed_bytes"] == 64 << 20
    assert card.cuda_state() == "checkpointed"
    assert is_quiet_for(card.replica)

    woken = card.unpark()
    assert (woken.outcome, woken.reason) == ("proven", None)
    assert [each.phase for each in woken.phases] == [row.phase.value for row in UNPARK.rows]
    assert card.cuda_state() == "running"
    assert answer(card.replica) == before
    assert card.leases() == 0

    again = card.park()
    assert (again.outcome, card.unpark().outcome) == ("parked", "proven")


def test_huge_pages_while_it_is_parked_and_as_before_after(ready: Ready) -> None:
    """The system's switch is `always` only while CUDA takes its memory."""
    from restore_driver.host.hugepages import read_switch

    card = ready()
    before, seen = read_switch(), []
    request = ParkRequest(pid=card.replica.pid, replica=card.spec, huge_pages=True)
    watch = at("cuda-checkpoint", lambda: seen.append(read_switch()), "end")
    result = card.driver.carry_out(request, watch)

    assert (result.outcome, phase(result, "cuda-checkpoint")["huge_pages"]) == ("parked", True)
    assert (seen, read_switch()) == ([before], before)


def test_a_parked_replica_outlives_the_driver_that_parked_it(ready: Ready) -> None:
    card = ready()
    card.park()
    card.driver = card.another_driver()
    assert card.driver.recover() == ()

    assert card.unpark().outcome == "proven"


def test_what_is_parked_is_not_parked_again_and_what_is_awake_is_not_unparked(ready: Ready) -> None:
    card = ready()
    refused = card.unpark()
    assert (refused.outcome, refused.reason, refused.hint) == ("refused", "RequestInvalid", "park it first")

    card.park()
    refused = card.park()
    assert (refused.outcome, refused.reason, refused.hint) == ("refused", "RequestInvalid", "unpark it")
    assert card.cuda_state() == "checkpointed"


def test_a_parked_replica_that_died_asks_for_another_way(ready: Ready) -> None:
    card = ready()
    card.park()
    os.kill(card.replica.pid, signal.SIGKILL)
    eventually(lambda: not proc.is_alive(card.replica.pid), "its end")
    result = card.unpark()

    assert (result.outcome, result.reason, result.fallback) == ("refused", "ReplicaLost", "cold-start")
    assert card.unpark().reason == "RequestInvalid"


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_a_park_that_fails_leaves_the_replica_serving(call: str, ready: Ready) -> None:
    """Its weights were off the card by then; the holder puts them back."""
    card = ready()
    before = answer(card.replica)
    card.stand_in.fault(call, card.replica.pid, OUT_OF_MEMORY)
    result = card.park()

    assert (result.outcome, result.phase, result.reason) == ("failed", f"cuda-{call}", "CudaFailed")
    assert (result.undone, result.undo_errors) == (("restore-cuda", "resume-engine"), ())
    assert (card.cuda_state(), answer(card.replica), card.leases()) == ("running", before, 0)

    card.stand_in.fix(call, card.replica.pid)
    assert card.park().outcome == "parked"


def test_a_hanging_checkpoint_misses_its_deadline_and_is_brought_back(ready: Ready) -> None:
    card = ready()
    card.stand_in.fault("checkpoint", card.replica.pid, "hang")

    def fix() -> None:
        card.stand_in.fix("checkpoint", card.replica.pid)

    result = card.park(at("restore-cuda", fix, "undo"), **{"cuda-checkpoint": 0.5})

    assert (result.phase, result.reason, result.undo_errors) == ("cuda-checkpoint", "DeadlineExceeded", ())
    assert answer(card.replica) is not None


def test_memory_that_is_not_free_is_no_parking(ready: Ready) -> None:
    """The driver says checkpointed, the card says otherwise: the replica is woken again, and nothing is promised."""
    card = ready()

    def still_held() -> None:
        card.stand_in.set_state(card.replica.pid, "locked")

    result = card.park(at("cuda-checkpoint", still_held, "end"))

    assert (result.outcome, result.phase, result.reason) == ("failed", "memory-free", "CudaFailed")
    assert (card.cuda_state(), card.leases()) == ("running", 0)
    assert answer(card.replica) is not None


def test_weights_that_could_not_be_had_again_are_not_given_up(ready: Ready) -> None:
    card = ready()
    holder = HolderClient(card.holder)
    holder.ask({"do": "drop", "model": "m"}, 5.0)
    holder.close()
    result = card.park()

    assert (result.outcome, result.phase, result.reason) == ("refused", "gate", "WeightsFailed")
    assert answer(card.replica) is not None


def test_too_little_memory_on_the_card_leaves_it_parked(ready: Ready) -> None:
    """Refused before anything is touched; it can be asked again once there is room."""
    card = ready(card_bytes=(512 << 20) + (4 << 20))
    assert card.park().outcome == "parked"
    neighbour = HolderClient(card.holder)
    token = neighbour.load("m", 5.0)
    neighbour.wait(token, 5.0)
    result = card.unpark()
    assert (result.phase, result.reason) == ("weights-load", "TooLittleMemory")
    assert card.cuda_state() == "checkpointed"

    neighbour.close()
    eventually(lambda: card.leases() == 0, "the neighbour's end")
    assert card.unpark().outcome == "proven"


def test_a_cuda_restore_that_fails_is_final(ready: Ready) -> None:
    """Out of memory in CUDA's restore can't be fixed: the process is ended, its lease is off, a cold start is due."""
    card = ready()
    card.park()
    card.stand_in.fault("restore", card.replica.pid, OUT_OF_MEMORY)
    card_failed = at("cuda-restore", lambda: card.stand_in.set_state(card.replica.pid, "failed"), "end")
    result = card.unpark(card_failed)

    assert (result.phase, result.reason, result.fallback) == ("cuda-restore", "CudaFailed", "cold-start")
    assert not proc.is_alive(card.replica.pid)
    assert card.leases() == 0


def test_a_wrong_answer_after_waking_is_no_replica(ready: Ready) -> None:
    """Alive and wrong: its count changed while it was parked."""
    card = ready()
    card.park()
    asked: list[object] = []

    def count_on() -> None:
        asked.append(card.replica.ask("POST", "/increment"))

    result = card.unpark(at("resume", count_on, "end"))

    assert asked == [{"count": 1}]
    assert (result.phase, result.reason, result.fallback) == ("prove", "ProofFailed", "cold-start")
    assert not proc.is_alive(card.replica.pid)


@pytest.mark.parametrize("phase", [row.phase.value for row in PARK.rows])
def test_a_driver_killed_while_parking_leaves_a_replica_that_serves(phase: str, ready: Ready) -> None:
    card = ready()
    before = answer(card.replica)
    killed_driver(card, ParkRequest(pid=card.replica.pid, replica=card.spec), phase)
    recovered = card.another_driver().recover()

    assert all(each.errors == () for each in recovered)
    assert (card.cuda_state(), answer(card.replica), card.leases()) == ("running", before, 0)
    assert card.park().outcome == "parked"


@pytest.mark.parametrize("phase", [row.phase.value for row in UNPARK.rows])
def test_a_driver_killed_while_unparking_leaves_it_parked_or_ended(phase: str, ready: Ready) -> None:
    """Before CUDA is touched it can be asked again; later it is neither parked nor awake, and is ended."""
    card = ready()
    card.park()
    killed_driver(card, UnparkRequest(pid=card.replica.pid), phase)
    recovered = card.another_driver().recover()

    assert all(each.errors == () for each in recovered)
    assert card.leases() == 0
    if phase in ("gate", "lock", "weights-load", "cuda-restore"):
        assert card.unpark().outcome == "proven"
    else:
        assert not proc.is_alive(card.replica.pid)
        assert card.unpark().reason == "RequestInvalid"
