"""Whole sequences of a replica on a GPU, without one: real CRIU, real holder, real helper, a stand-in for the driver.

The stand-in holds to the contract that the real driver holds to (`tests/restore_driver/cuda/test_contract.py` runs
against both); what a GPU adds is measured on one (`benchmarks/gpu_restore.py`).
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from restore_driver.attempt.phases import Observer
from restore_driver.compat.fingerprint import Gpu
from restore_driver.cuda import HelperClient
from restore_driver.driver import Driver
from restore_driver.placeholder.create import Placeholder
from restore_driver.toolset import Toolset, open_toolset
from restore_driver.weights.client import HolderClient
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, ParkRequest, Request, RestoreRequest, UnparkRequest
from restore_driver.wire.result import Result
from tests.restore_driver.cuda.conftest import StandIn, built_driver, client, stand_in
from tests.restore_driver.real.conftest import ROOT, Place, Replica, criu, free_port, place, state
from tests.restore_driver.trees import kill_tree
from tests.restore_driver.waiting import eventually
from tests.restore_driver.weights.test_holder import MIB, Begin, Weights, begin

__all__ = ["begin", "built_driver", "client", "criu", "place", "stand_in", "state"]

GPUS = tuple(
    Gpu(model="NVIDIA H200", uuid=f"GPU-{'0' * 8}-0000-0000-0000-{n:012d}", memory_bytes=1 << 30) for n in (1, 2)
)


def reporting(stand_in: StandIn, placeholder: Placeholder, observe: Observer = lambda *_: None) -> Observer:
    """Report the PIDs of restored processes to the stand-in, which the real driver knows by itself."""

    def tell(event: str, phase: str) -> None:
        if (event, phase) == ("end", "criu-restore"):
            for inside, pid in placeholder.members().items():
                if inside != 1:
                    stand_in.set_state(pid, "checkpointed")
        observe(event, phase)

    return tell


@dataclass
class Machine:
    """One machine: replica, holder, driver, and the stand-in for NVIDIA's part."""

    replica: Replica
    spec: ReplicaSpec
    holder: Path
    stand_in: StandIn
    driver: Driver
    weights: Weights
    artifact: Path
    control: Path

    def park(self, observe: Observer = lambda *_: None, **deadlines_s: float) -> Result:
        request = ParkRequest(pid=self.replica.pid, replica=self.spec, deadlines_s=deadlines_s)
        return self.driver.carry_out(request, observe)

    def unpark(self, observe: Observer = lambda *_: None, **deadlines_s: float) -> Result:
        return self.driver.carry_out(UnparkRequest(pid=self.replica.pid, deadlines_s=deadlines_s), observe)

    def checkpoint(self, *, end: bool, observe: Observer = lambda *_: None) -> Result:
        request = CheckpointRequest(
            pid=self.replica.pid, artifact=self.artifact, replica=self.spec, leave_running=not end, gpus=(GPUS[0].uuid,)
        )
        return self.driver.carry_out(request, observe)

    def restore(
        self,
        placeholder: Placeholder,
        observe: Observer = lambda *_: None,
        gpu: int = 0,
        deadlines_s: dict[str, float] | None = None,
    ) -> Result:
        """Into a placeholder, on one of the GPUs."""
        request = RestoreRequest(
            artifact=self.artifact,
            placeholder_pid=placeholder.pid,
            gpus=(GPUS[gpu].uuid,),
            deadlines_s=deadlines_s or {},
        )
        return self.driver.carry_out(request, reporting(self.stand_in, placeholder, observe))

    def cuda_state(self, pid: int | None = None) -> str:
        return (self.stand_in.directory / "processes" / str(pid or self.replica.pid)).read_text().strip()

    def leases(self) -> int:
        """Of the holder, once those without a client have ended."""
        holder = HolderClient(self.holder)
        try:
            with suppress(AssertionError):
                eventually(lambda: not holder.status()["leases"], "the leases' end")
            return int(holder.status()["leases"])
        finally:
            holder.close()

    def another_driver(self) -> Driver:
        """As after a restart of the agent."""
        return Driver(dataclasses.replace(self.driver.tools))


def tools_with_gpus(state: Path, client: HelperClient) -> Toolset:
    """This machine's tools, with the stand-in's two GPUs."""
    tools = open_toolset(state)
    machine = tools.machine.model_copy(update={"gpus": GPUS, "driver_version": "580.0"})
    return dataclasses.replace(tools, cuda=client, cuda_missing="", gpus=GPUS, machine=machine)


KILLER = """
import os, signal, sys
from pathlib import Path
from pydantic import TypeAdapter
from restore_driver.cuda import HelperClient
from restore_driver.driver import Driver
from restore_driver.wire.requests import AnyRequest
from restore_driver.placeholder.create import Placeholder
from tests.restore_driver.cuda.conftest import StandIn
from tests.restore_driver.gpu_sequences.conftest import reporting, tools_with_gpus

state, stand_in, request, event_wanted, phase_wanted, placeholder = sys.argv[1:]

def kill(event, phase):
    if (event, phase) == (event_wanted, phase_wanted):
        os.kill(os.getpid(), signal.SIGKILL)

tools = tools_with_gpus(Path(state), HelperClient(Path(stand_in)))
observe = reporting(StandIn(Path(stand_in)), Placeholder(int(placeholder)), kill) if int(placeholder) else kill
Driver(tools).carry_out(TypeAdapter(AnyRequest).validate_json(request), observe)
"""


def killed_driver(
    machine: Machine, request: Request, phase: str, event: str = "begin", placeholder: Placeholder | None = None
) -> None:
    """A driver of its own process that dies by SIGKILL as a phase begins or has just ended."""
    state = machine.driver.tools.state.root
    argv = [sys.executable, "-c", KILLER, str(state), str(machine.stand_in.directory), request.model_dump_json()]
    argv += [event, phase, str(placeholder.pid if placeholder else 0)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


Ready = Callable[..., Machine]


@pytest.fixture
def ready(begin: Begin, stand_in: StandIn, client: HelperClient, state: Path, tmp_path: Path) -> Iterator[Ready]:
    """A replica that serves, with its model held by a holder."""
    children: list[subprocess.Popen[bytes]] = []

    def make(gpu_bytes: int = 1 << 30) -> Machine:
        weights = Weights(tmp_path, seed=1)
        _, socket = begin(budget=64 * MIB, gpu=gpu_bytes)
        holder = HolderClient(socket)
        holder.preload("m", weights.files, weights.layout, 20.0)
        holder.close()
        (tmp_path / "content").write_bytes(weights.expected)
        port, control = free_port(), tmp_path / "control" / "replica.sock"
        control.parent.mkdir()
        argv = [os.path.realpath(sys.executable), str(Path(__file__).with_name("replica_process.py"))]
        argv += ["--driver", str(stand_in.directory / "libcuda.so.1"), "--weights", str(tmp_path / "content")]
        argv += ["--socket", str(control), "--port", str(port)]
        log = (tmp_path / "replica.log").open("wb")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        child = subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        children.append(child)
        replica = Replica(child.pid, port, tmp_path)
        stand_in.set_state(child.pid, "running")
        eventually(lambda: answer(replica), f"the replica: {(tmp_path / 'replica.log').read_text()}")
        spec = ReplicaSpec.model_validate(
            {
                "engine": {"kind": "inprocess", "socket": str(control), "models": ["m"], "holder": str(socket)},
                "proof": {"requests": [{"call": {"url": f"http://127.0.0.1:{port}/answer"}}]},
            }
        )
        driver = Driver(tools_with_gpus(state, client))
        return Machine(replica, spec, socket, stand_in, driver, weights, tmp_path / "artifacts" / "snapshot", control)

    yield make
    for child in children:
        kill_tree(child.pid)
        child.wait()


def answer(replica: Replica) -> dict[str, int] | None:
    """What it serves now; None while it does not."""
    with suppress(OSError):
        found: dict[str, int] = replica.ask("GET", "/answer")
        return found
    return None


def is_quiet_for(replica: Replica, seconds_s: float = 0.2) -> bool:
    """A parked replica's steps wait: its socket accepts, nothing is answered. A look, not a measure of speed."""
    import socket

    with socket.create_connection(("127.0.0.1", replica.port), timeout=5.0) as connection:
        connection.sendall(b"GET /answer HTTP/1.0\r\n\r\n")
        connection.settimeout(seconds_s)
        began_s = time.monotonic()
        try:
            connection.recv(1)
        except TimeoutError:
            return time.monotonic() - began_s >= seconds_s
    return False


_ = Place
