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
def test_other_requests_are_refused_while_a_replica_is_checkpointed(other: str, ready: Ready) -> None:
    machine = ready()
    meanwhile: list[Result] = []

    def ask() -> None:
        requests: dict[str, Callable[[], Result]] = {
            "park": machine.park,
            "unpark": machine.unpark,
            "checkpoint": lambda: machine.checkpoint(end=True),
        }
        meanwhile.append(requests[other]())

    made = machine.checkpoint(end=False, observe=at("criu-dump", ask))

    assert made.outcome == "published"
    assert meanwhile[0].outcome == "refused"
    assert meanwhile[0].reason == ("RequestInvalid" if other == "unpark" else "Busy")
    assert meanwhile[0].fallback is None
    assert answer(machine.replica) is not None


def test_a_parked_replica_is_not_checkpointed(ready: Ready) -> None:
    machine = ready()
    machine.park()
    refused = machine.checkpoint(end=True)

    assert (refused.outcome, refused.phase, refused.hint) == ("refused", "gate", "unpark it")
    assert machine.unpark().outcome == "proven"


def test_a_park_that_was_cut_off_at_its_last_line_is_forgotten_with_its_record(ready: Ready) -> None:
    """Recovered, it serves; a record that stayed would let the next unpark end it."""
    machine = ready()
    killed_driver(machine, ParkRequest(pid=machine.replica.pid, replica=machine.spec), "memory-free", "end")
    recovered = machine.another_driver().recover()

    assert [each.errors for each in recovered] == [()]
    assert machine.cuda_state() == "running"
    refused = machine.unpark()
    assert (refused.outcome, refused.hint) == ("refused", "park it first")
    assert answer(machine.replica) is not None


def test_replica_woken_by_another_is_not_unparked_again(ready: Ready) -> None:
    machine = ready()
    machine.park()
    machine.stand_in.set_state(machine.replica.pid, "running")
    refused = machine.unpark()

    assert (refused.outcome, refused.reason, refused.fallback) == ("refused", "RequestInvalid", None)
    assert proc.is_alive(machine.replica.pid)


def test_a_worker_that_ended_while_it_was_parked_is_not_missed(ready: Ready) -> None:
    machine = ready()
    machine.park()
    path = machine.driver.tools.state.parked / f"{machine.replica.pid}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "cuda_pids": [*record["cuda_pids"], unused_pid()]}))

    assert machine.unpark().outcome == "proven"


def unused_pid() -> int:
    """A PID that no process has."""
    return next(pid for pid in range(2_000_000, 3_000_000) if not os.path.exists(f"/proc/{pid}"))


def test_failed_continue_leaves_the_gpu_to_the_undo(ready: Ready) -> None:
    """On a GPU with room for one model, the failed attempt must not keep what its undo needs."""
    machine = ready(gpu_bytes=(512 << 20) + (5 << 20))
    before = answer(machine.replica)
    machine.stand_in.fault("restore", machine.replica.pid, OUT_OF_MEMORY)

    def fix() -> None:
        machine.stand_in.fix("restore", machine.replica.pid)

    result = machine.checkpoint(end=False, observe=at("restore-cuda", fix, "undo"))

    assert (result.outcome, result.phase, result.undo_errors) == ("failed", "continue", ())
    assert (answer(machine.replica), machine.leases()) == (before, 0)


def test_without_a_way_to_cuda_nothing_is_forgotten(ready: Ready) -> None:
    """A look that can't bring CUDA back says so, and the next one that can does."""
    machine = ready()
    killed_driver(machine, ParkRequest(pid=machine.replica.pid, replica=machine.spec), "memory-free")
    blind = Driver(dataclasses.replace(machine.driver.tools, cuda=None, cuda_missing="no helper"))
    first = blind.recover()

    assert [sentence for each in first for sentence in each.errors if "CudaMissing" in sentence]
    assert machine.cuda_state() == "checkpointed"
    assert [each.errors for each in machine.another_driver().recover()] == [()]
    assert (machine.cuda_state(), answer(machine.replica) is not None) == ("running", True)


def test_replica_that_needs_more_memory_than_its_gpu_has_is_refused_at_the_gate(ready: Ready) -> None:
    """It held 64 MiB; fifteen others of that size and itself are all that the GPU of 1 GiB takes."""
    machine = ready()
    assert machine.park().outcome == "parked"
    others = [machine.stand_in.spawn() for _ in range(16)]
    refused = machine.unpark()

    assert (refused.outcome, refused.phase, refused.reason) == ("refused", "gate", "TooLittleMemory")
    assert (refused.fallback, machine.cuda_state()) == ("cold-start", "checkpointed")
    assert len(others) == 16


def test_the_replicas_own_gpu_is_preferred(ready: Ready) -> None:
    """Without a wish, a snapshot of the second GPU comes back on the second GPU."""
    machine = ready()
    request = CheckpointRequest(
        pid=machine.replica.pid,
        artifact=machine.artifact,
        replica=machine.spec,
        leave_running=False,
        gpus=(GPUS[1].uuid,),
    )
    assert machine.driver.carry_out(request).outcome == "ended"
    from restore_driver.artifact.manifest import load_manifest
    from restore_driver.steps.restore import RestoreSteps
    from restore_driver.wire.requests import RestoreRequest

    restoring = RestoreSteps(
        machine.driver.tools, RestoreRequest(artifact=machine.artifact, placeholder_pid=os.getpid())
    )

    assert restoring._gpus(load_manifest(machine.artifact).fingerprint.gpus) == (GPUS[1],)
