"""park and unpark: a live replica gives up its GPU and takes it back, and every way in which that can fail."""

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
    """Serves, parks (off the GPU, proven), waits, unparks, serves on: with its count and with its weights."""
    machine = ready()
    for _ in range(3):
        machine.replica.ask("POST", "/increment")
    before = answer(machine.replica)

    parked = machine.park()
    assert (parked.outcome, parked.reason) == ("parked", None)
    assert [each.phase for each in parked.phases] == [row.phase.value for row in PARK.rows]
    assert phase(parked, "memory-free")["witness"] == "process-list"
    assert phase(parked, "memory-free")["freed_bytes"] == 64 << 20
    assert machine.cuda_state() == "checkpointed"
    assert is_quiet_for(machine.replica)

    woken = machine.unpark()
    assert (woken.outcome, woken.reason) == ("proven", None)
    assert [each.phase for each in woken.phases] == [row.phase.value for row in UNPARK.rows]
    assert machine.cuda_state() == "running"
    assert answer(machine.replica) == before
    assert machine.leases() == 0

    again = machine.park()
    assert (again.outcome, machine.unpark().outcome) == ("parked", "proven")


def test_huge_pages_while_it_is_parked_and_as_before_after(ready: Ready) -> None:
    """The system's switch is `always` only while CUDA takes its memory."""
    from restore_driver.host.hugepages import read_switch

    machine = ready()
    before, seen = read_switch(), []
    request = ParkRequest(pid=machine.replica.pid, replica=machine.spec, huge_pages=True)
    watch = at("cuda-checkpoint", lambda: seen.append(read_switch()), "end")
    result = machine.driver.carry_out(request, watch)

    assert (result.outcome, phase(result, "cuda-checkpoint")["huge_pages"]) == ("parked", True)
    assert (seen, read_switch()) == ([before], before)


def test_a_parked_replica_outlives_the_driver_that_parked_it(ready: Ready) -> None:
    machine = ready()
    machine.park()
    machine.driver = machine.another_driver()
    assert machine.driver.recover() == ()

    assert machine.unpark().outcome == "proven"


def test_what_is_parked_is_not_parked_again_and_what_is_awake_is_not_unparked(ready: Ready) -> None:
    machine = ready()
    refused = machine.unpark()
    assert (refused.outcome, refused.reason, refused.hint) == ("refused", "RequestInvalid", "park it first")

    machine.park()
    refused = machine.park()
    assert (refused.outcome, refused.reason, refused.hint) == ("refused", "RequestInvalid", "unpark it")
    assert machine.cuda_state() == "checkpointed"


def test_parked_replica_that_died_falls_back(ready: Ready) -> None:
    machine = ready()
    machine.park()
    os.kill(machine.replica.pid, signal.SIGKILL)
    eventually(lambda: not proc.is_alive(machine.replica.pid), "its end")
    result = machine.unpark()

    assert (result.outcome, result.reason, result.fallback) == ("refused", "ReplicaLost", "cold-start")
    assert machine.unpark().reason == "RequestInvalid"


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_a_park_that_fails_leaves_the_replica_serving(call: str, ready: Ready) -> None:
    """Its weights were off the GPU by then; the holder puts them back."""
    machine = ready()
    before = answer(machine.replica)
    machine.stand_in.fault(call, machine.replica.pid, OUT_OF_MEMORY)
    result = machine.park()

    assert (result.outcome, result.phase, result.reason) == ("failed", f"cuda-{call}", "CudaFailed")
    assert (result.undone, result.undo_errors) == (("restore-cuda", "resume-engine"), ())
    assert (machine.cuda_state(), answer(machine.replica), machine.leases()) == ("running", before, 0)

    machine.stand_in.fix(call, machine.replica.pid)
    assert machine.park().outcome == "parked"


def test_a_hanging_checkpoint_misses_its_deadline_and_is_brought_back(ready: Ready) -> None:
    machine = ready()
    machine.stand_in.fault("checkpoint", machine.replica.pid, "hang")

    def fix() -> None:
        machine.stand_in.fix("checkpoint", machine.replica.pid)

    result = machine.park(at("restore-cuda", fix, "undo"), **{"cuda-checkpoint": 0.5})

    assert (result.phase, result.reason, result.undo_errors) == ("cuda-checkpoint", "DeadlineExceeded", ())
    assert answer(machine.replica) is not None


def test_memory_that_is_not_free_is_no_parking(ready: Ready) -> None:
    """The driver says checkpointed, the GPU says otherwise: the replica is woken again, and nothing is promised."""
    machine = ready()

    def still_held() -> None:
        machine.stand_in.set_state(machine.replica.pid, "locked")

    result = machine.park(at("cuda-checkpoint", still_held, "end"))

    assert (result.outcome, result.phase, result.reason) == ("failed", "memory-free", "CudaFailed")
    assert (machine.cuda_state(), machine.leases()) == ("running", 0)
    assert answer(machine.replica) is not None


def test_weights_that_could_not_be_had_again_are_not_given_up(ready: Ready) -> None:
    machine = ready()
    holder = HolderClient(machine.holder)
    holder.ask({"do": "drop", "model": "m"}, 5.0)
    holder.close()
    result = machine.park()

    assert (result.outcome, result.phase, result.reason) == ("refused", "gate", "WeightsFailed")
    assert answer(machine.replica) is not None


def test_too_little_gpu_memory_leaves_it_parked(ready: Ready) -> None:
    """Refused before anything is touched; it can be asked again once there is room."""
    machine = ready(gpu_bytes=(512 << 20) + (4 << 20))
    assert machine.park().outcome == "parked"
    neighbour = HolderClient(machine.holder)
    token = neighbour.load("m", 5.0)
    neighbour.wait(token, 5.0)
    result = machine.unpark()
    assert (result.phase, result.reason) == ("weights-load", "TooLittleMemory")
    assert machine.cuda_state() == "checkpointed"

    neighbour.close()
    eventually(lambda: machine.leases() == 0, "the neighbour's end")
    assert machine.unpark().outcome == "proven"


def test_a_cuda_restore_that_fails_is_final(ready: Ready) -> None:
    """Out of memory in CUDA's restore can't be fixed: the process is ended, its lease is off, a cold start is due."""
    machine = ready()
    machine.park()
    machine.stand_in.fault("restore", machine.replica.pid, OUT_OF_MEMORY)
    gpu_failed = at("cuda-restore", lambda: machine.stand_in.set_state(machine.replica.pid, "failed"), "end")
    result = machine.unpark(gpu_failed)

    assert (result.phase, result.reason, result.fallback) == ("cuda-restore", "CudaFailed", "cold-start")
    assert not proc.is_alive(machine.replica.pid)
    assert machine.leases() == 0


def test_a_wrong_answer_after_waking_is_no_replica(ready: Ready) -> None:
    """Alive and wrong: its count changed while it was parked."""
    machine = ready()
    machine.park()
    asked: list[object] = []

    def count_on() -> None:
        asked.append(machine.replica.ask("POST", "/increment"))

    result = machine.unpark(at("resume", count_on, "end"))

    assert asked == [{"count": 1}]
    assert (result.phase, result.reason, result.fallback) == ("prove", "ProofFailed", "cold-start")
    assert not proc.is_alive(machine.replica.pid)


@pytest.mark.parametrize("phase", [row.phase.value for row in PARK.rows])
def test_a_driver_killed_while_parking_leaves_a_replica_that_serves(phase: str, ready: Ready) -> None:
    machine = ready()
    before = answer(machine.replica)
    killed_driver(machine, ParkRequest(pid=machine.replica.pid, replica=machine.spec), phase)
    recovered = machine.another_driver().recover()

    assert all(each.errors == () for each in recovered)
    assert (machine.cuda_state(), answer(machine.replica), machine.leases()) == ("running", before, 0)
    assert machine.park().outcome == "parked"


@pytest.mark.parametrize("phase", [row.phase.value for row in UNPARK.rows])
def test_a_driver_killed_while_unparking_leaves_it_parked_or_ended(phase: str, ready: Ready) -> None:
    """Before CUDA is touched it can be asked again; later it is neither parked nor awake, and is ended."""
    machine = ready()
    machine.park()
    killed_driver(machine, UnparkRequest(pid=machine.replica.pid), phase)
    recovered = machine.another_driver().recover()

    assert all(each.errors == () for each in recovered)
    assert machine.leases() == 0
    if phase in ("gate", "lock", "weights-load", "cuda-restore"):
        assert machine.unpark().outcome == "proven"
    else:
        assert not proc.is_alive(machine.replica.pid)
        assert machine.unpark().reason == "RequestInvalid"
