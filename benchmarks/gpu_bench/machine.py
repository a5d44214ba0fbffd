"""What all rows share: weights on disk, a holder, an agent, replicas as processes, and the way back to nothing."""

from __future__ import annotations

import http.client
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from restore_driver.agent.client import ask, status
from restore_driver.artifact.seal import verify_and_seal
from restore_driver.host import proc
from restore_driver.host.hugepages import mount_huge_tmpfs
from restore_driver.host.mounts import unmount
from restore_driver.host.netns import in_network_namespace
from restore_driver.placeholder.create import Placeholder, create
from restore_driver.weights.client import HolderClient
from restore_driver.weights.safetensors import Layout
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, ParkRequest, RestoreRequest, UnparkRequest
from restore_driver.wire.result import Result

PROMPT = {"prompt": [11, 222, 3333], "steps": 3}
PORT = 8123


@dataclass
class Replica:
    """A stand-in process."""

    pid: int
    control: Path
    answer: dict[str, Any] = field(default_factory=dict)
    child: subprocess.Popen[bytes] | None = None
    placeholder: Placeholder | None = None

    def generate(self) -> dict[str, Any]:
        """Return the known request, from within the replica's network namespace."""

        def call() -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
            try:
                connection.request("POST", "/generate", json.dumps(PROMPT))
                return json.loads(connection.getresponse().read())
            finally:
                connection.close()

        answer: dict[str, Any] = in_network_namespace(self.pid, call, 60.0)
        return answer

    def end(self) -> None:
        """Kills it, and its placeholder."""
        if self.placeholder is not None:
            self.placeholder.end()
        pids = proc.tree(self.pid)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.child is not None:
            self.child.wait()
        while any(proc.is_alive(pid) for pid in pids):
            time.sleep(0.01)


class Machine:
    """Directories, the holder, the agent."""

    def __init__(self, scratch: Path, layers: int) -> None:
        self.scratch, self.layers = scratch, layers
        self.weights, self.images, self.disk = scratch / "weights", scratch / "images", Path("/var/tmp/forethaw-disk")
        self.state, self.sockets, self.control = scratch / "state", scratch / "sockets", scratch / "control"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.replicas: list[Replica] = []
        self.holder_facts: dict[str, Any] = {}
        self.agent: subprocess.Popen[bytes] | None = None

    @property
    def holder(self) -> Path:
        """The weights holder's socket."""
        return self.sockets / "holder"

    def prepare(self) -> None:
        """Weights, holder, agent."""
        for path in (self.scratch, self.sockets, self.control, self.disk):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mount_huge_tmpfs(self.images, 60 << 30)
        self.weights.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40g,mode=0700", "tmpfs", self.weights], check=True)
        self._run("-m", "benchmarks.standin.serve", "--make", str(self.weights / "large"), *self.sizes())
        self._start_holder()
        self.start_agent()

    def sizes(self) -> list[str]:
        """Arguments of the stand-in for its size."""
        return ["--layers", str(self.layers)]

    def start(
        self,
        name: str,
        *more: str,
        cache: Path | None = None,
        weights: str = "large",
        program: str = "benchmarks.standin.serve",
    ) -> Replica:
        """Start a stand-in; returns once it has answered. Its `answer` holds the tokens and the time that took."""
        control = self.control / f"{name}.sock"
        directory = cache or self.scratch / "compile-cache"
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(directory / "inductor"),
            "TRITON_CACHE_DIR": str(directory / "triton"),
            "PYTHONUNBUFFERED": "1",
        }
        argv = [sys.executable, "-m", program, "--weights", str(self.weights / weights)]
        argv += ["--socket", str(control), "--port", str(PORT), *(more or (self.sizes() if weights == "large" else ()))]
        network = create(network="private")  # only its network is shared: every replica has the same port
        argv = ["nsenter", "--target", str(network.pid), "--net", *argv]
        log = (self.scratch / f"{name}.log").open("wb")
        began_s = time.monotonic()
        child = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        replica = Replica(child.pid, control, child=child, placeholder=network)
        self.replicas.append(replica)
        while b'"ready"' not in (self.scratch / f"{name}.log").read_bytes():
            if child.poll() is not None:
                raise RuntimeError((self.scratch / f"{name}.log").read_text()[-2000:])
            time.sleep(0.02)
        replica.answer = replica.generate()
        replica.answer["start_s"] = time.monotonic() - began_s
        said = (self.scratch / f"{name}.log").read_text().splitlines()
        replica.answer["start"] = next(json.loads(line) for line in said if line.startswith('{"ready"'))
        return replica

    def spec(self, replica: Replica, *, model: str | None = "standin") -> ReplicaSpec:
        """Engine and proof of a stand-in; without a model, one that is restored with all its memory."""
        engine: dict[str, Any] = {"kind": "none"}
        if model is not None:
            engine = {
                "kind": "inprocess",
                "socket": str(replica.control),
                "models": [model],
                "holder": str(self.holder),
            }
        known = {
            "call": {"method": "POST", "url": f"http://127.0.0.1:{PORT}/generate", "body": PROMPT},
            "expect": {"kind": "same_as_before", "pointers": ["/tokens"]},
        }
        return ReplicaSpec.model_validate({"engine": engine, "proof": {"requests": [known]}})

    def checkpoint(self, replica: Replica, artifact: Path, *, end: bool, model: str | None, compact: bool) -> Result:
        """Through the agent."""
        request = CheckpointRequest(
            pid=replica.pid,
            artifact=artifact,
            replica=self.spec(replica, model=model),
            leave_running=not end,
            compact=compact,
        )
        return self._asked(request)

    def restore(self, artifact: Path, control: Path, **options: Any) -> tuple[Replica, Result, float]:
        """Into a new private placeholder; the result, and the time as the caller sees it."""
        placeholder = create(network="private")
        enter = ["nsenter", "--target", str(placeholder.pid), "--mount"]
        own = [*enter, "mount", "-t", "tmpfs", "tmpfs", str(self.control)]
        subprocess.run(own, check=True)  # clones bind the same path, each in a directory of its own
        request = RestoreRequest(artifact=artifact, placeholder_pid=placeholder.pid, holder=self.holder, **options)
        began_s = time.monotonic()
        result = ask(self.state / "agent.sock", request, 300.0)
        took_s = time.monotonic() - began_s
        if not result.ok:
            placeholder.end()
            raise RuntimeError(f"{result.reason} in {result.phase}: {result.detail} {result.undo_errors}")
        replica = Replica(result.answer["host_pid"], control, placeholder=placeholder)
        self.replicas.append(replica)
        return replica, result, took_s

    def park(self, replica: Replica, model: str = "standin", *, huge_pages: bool = False) -> Result:
        """Through the agent."""
        spec = self.spec(replica, model=model)
        return self._asked(ParkRequest(pid=replica.pid, replica=spec, huge_pages=huge_pages))

    def unpark(self, replica: Replica) -> tuple[Result, float]:
        """Through the agent; the result, and the time as the caller sees it."""
        began_s = time.monotonic()
        result = self._asked(UnparkRequest(pid=replica.pid, holder=self.holder))
        return result, time.monotonic() - began_s

    def seal_copy(self, artifact: Path, target: Path) -> None:
        """Make a copy elsewhere, verified and sealed."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(artifact, target)
        verify_and_seal(target)

    def drop(self, artifact: Path) -> None:
        """Remove an artifact to free its space."""
        shutil.rmtree(artifact, ignore_errors=True)

    def between_rows(self) -> None:
        """No replica of one row burdens the next."""
        for replica in self.replicas:
            with suppress(OSError):
                replica.end()
        self.replicas.clear()

    def start_agent(self) -> None:
        """Start the resident agent and wait until it answers."""
        self.agent = self._spawn("agent", "-m", "restore_driver", "agent", "--state", str(self.state))
        self._wait_for(
            lambda: (self.state / "agent.sock").exists() and bool(status(self.state / "agent.sock")), "agent"
        )

    def clean_up(self) -> None:
        """Back to nothing, also after a failure."""
        self.between_rows()
        for process in self.processes:
            process.kill()
            process.wait()
        for name in ("agent", "holder"):
            with suppress(OSError):
                text = (self.scratch / f"{name}.log").read_text()
                if "Error" in text:
                    print(f"{name}: {text[-1500:]}", flush=True)
        unmount(self.images)
        unmount(self.weights)
        shutil.rmtree(self.disk, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def preload(self, model: str, weights: str) -> dict[str, Any]:
        """Has the holder read a model."""
        layout = json.loads((self.weights / weights / "layout.json").read_text())
        client = HolderClient(self.holder)
        try:
            files = sorted((self.weights / weights).glob("*.safetensors"))
            facts = client.preload(model, files, Layout(layout["total_bytes"], layout["offsets_bytes"]), 120.0)
        finally:
            client.close()
        return facts

    def _start_holder(self) -> None:
        options = ["--socket", str(self.holder), "--budget-bytes", str(40 << 30)]
        self._spawn("holder", "-m", "restore_driver.weights", *options)
        self._wait_for(lambda: "ready" in (self.scratch / "holder.log").read_text(), "holder")
        self.holder_facts = self.preload("standin", "large")

    def _asked(self, request: Any) -> Result:
        result = ask(self.state / "agent.sock", request, 600.0)
        if not result.ok:
            raise RuntimeError(f"{result.reason} in {result.phase}: {result.detail} {result.undo_errors}")
        return result

    def _spawn(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        log = (self.scratch / f"{name}.log").open("wb")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        self.processes.append(process)
        return process

    def _run(self, *words: str) -> None:
        subprocess.run([sys.executable, *words], check=True)

    def _wait_for(self, true: Any, name: str) -> None:
        ends_s = time.monotonic() + 60.0
        while not true():
            if time.monotonic() > ends_s or any(process.poll() is not None for process in self.processes):
                raise RuntimeError(f"{name} did not come up: {(self.scratch / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.05)


def versions() -> dict[str, str]:
    """Card, driver, kernel and libraries."""
    import torch

    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    card, driver, memory = (
        subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0].split(", ")
    )
    return {
        "card": card,
        "driver": driver,
        "card_memory": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": str(os.cpu_count()),
    }
