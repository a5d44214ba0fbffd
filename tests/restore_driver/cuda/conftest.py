"""Two worlds for the same contract: a stand-in driver in a directory of its own, and a real GPU where there is one."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from restore_driver.cuda import Cli, CudaProcesses, HelperClient
from tests.restore_driver.trees import kill

HERE = Path(__file__).parent

collect_ignore = [] if find_spec("hypothesis") else ["test_gpu_map.py"]
"""A machine that is lent with its GPU brings pytest, and little else."""


@dataclass
class Subject:
    """A CUDA process."""

    pid: int
    child: subprocess.Popen[str]
    digest_before: str = ""

    def tell(self, words: str) -> str:
        """One line to the process, one line back."""
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(words + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


@dataclass
class StandIn:
    """The stand-in driver's directory, as stand_in_driver.c describes it."""

    directory: Path
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def spawn(self) -> Subject:
        """A process that the stand-in takes for one that uses CUDA."""
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        self.set_state(child.pid, "running")
        return Subject(child.pid, child)

    def set_state(self, pid: int, state: str) -> None:
        (self.directory / "processes" / str(pid)).write_text(state)

    def fault(self, call: str, pid: int, what: str | int) -> None:
        """The next calls answer this code, or hang."""
        (self.directory / "faults" / f"{call}.{pid}").write_text(str(what))

    def fix(self, call: str, pid: int) -> None:
        (self.directory / "faults" / f"{call}.{pid}").unlink()

    def calls(self) -> list[str]:
        """Every call that changes something, in order."""
        lines = (self.directory / "calls").read_text().splitlines() if (self.directory / "calls").exists() else []
        return [line for line in lines if not line.startswith("state ")]

    def cli(self) -> Cli:
        """The fallback over the stand-in's programs."""
        program, library = HERE / "stand_in_checkpoint.py", self.directory / "libcuda.so.1"
        return Cli(
            _program(self.directory / "cuda-checkpoint", f'exec {sys.executable} {program} {library} "$@"'),
            _program(self.directory / "nvidia-smi", _SMI.replace("PROCESSES", str(self.directory / "processes"))),
        )

    def occupy(self, subject: Subject) -> None:
        """Its GPU work does not end before any lock's timeout."""
        self.fault("lock", subject.pid, 600)

    def intact(self, subject: Subject) -> bool:
        return subject.tell("still here") == "still here"

    def close(self) -> None:
        _end(self.children)


@dataclass
class RealGpu:
    """The machine's own driver and GPU."""

    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def spawn(self) -> Subject:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "real_process.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.children.append(child)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        subject = Subject(child.pid, child)
        subject.digest_before = subject.tell("digest")
        return subject

    def occupy(self, subject: Subject) -> None:
        assert subject.tell("busy 5") == "busy"

    def intact(self, subject: Subject) -> bool:
        return subject.tell("digest") == subject.digest_before

    def close(self) -> None:
        _end(self.children)


@dataclass
class World:
    """Who is asked, and on what."""

    processes: CudaProcesses
    gpu: StandIn | RealGpu


@pytest.fixture(scope="session")
def built_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's library, compiled once."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is needed to build the stand-in driver")
    library = tmp_path_factory.mktemp("stand-in") / "libcuda.so.1"
    source = str(HERE / "stand_in_driver.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    return library


@pytest.fixture
def stand_in(built_driver: Path, tmp_path: Path) -> Iterator[StandIn]:
    """A driver of the test's own: the library finds its state beside itself."""
    directory = tmp_path / "driver"
    for name in ("processes", "faults"):
        (directory / name).mkdir(parents=True)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        shutil.copy(built_driver, directory / name)
    made = StandIn(directory)
    yield made
    made.close()


@pytest.fixture
def client(stand_in: StandIn) -> Iterator[HelperClient]:
    """The real helper with the real bindings, on the stand-in driver."""
    pytest.importorskip("cuda.bindings.driver")
    made = HelperClient(stand_in.directory)
    yield made
    made.close()


@pytest.fixture(params=["stand-in-helper", "stand-in-cli", "real-helper", "real-cli"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each adapter on each driver that this machine has."""
    where, _, adapter = request.param.rpartition("-")
    if where == "stand-in":
        gpu: StandIn = request.getfixturevalue("stand_in")
        yield World(request.getfixturevalue("client") if adapter == "helper" else gpu.cli(), gpu)
        return
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no NVIDIA GPU here")
    if adapter == "cli" and shutil.which("cuda-checkpoint") is None:
        pytest.skip("cuda-checkpoint is not installed")
    if find_spec("torch") is None:
        pytest.skip("the process on the GPU needs torch")
    real = RealGpu()
    processes: CudaProcesses = HelperClient() if adapter == "helper" else Cli()
    try:
        yield World(processes, real)
    finally:
        processes.close()
        real.close()


_SMI = """
cd PROCESSES
held=$(grep -Lx checkpointed -- * 2>/dev/null)
case $1 in
  -L) echo 'GPU 0: NVIDIA H200 (UUID: GPU-00000000-0000-0000-0000-000000000001)'
      echo 'GPU 1: NVIDIA H200 (UUID: GPU-00000000-0000-0000-0000-000000000002)' ;;
  --query-gpu=*) echo "GPU-00000000-0000-0000-0000-000000000001, 1024, $((1024 - 64 * $(echo $held | wc -w)))"
      echo 'GPU-00000000-0000-0000-0000-000000000002, 1024, 1024' ;;
  *) for pid in $held; do echo "$pid, 64"; done ;;
esac
"""


def _program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def _end(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        kill([child.pid])
        with child:  # closes its pipes and waits
            pass
