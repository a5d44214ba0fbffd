"""The holder's GPU and the replica's ranges, through the real bindings, over a stand-in for the driver's memory calls.

The stand-in answers wrong arguments as the driver does; what a GPU adds is measured on one.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.client import HolderClient
from tests.restore_driver.weights.test_holder import MIB, ROOT, Weights, ask, close_clients

__all__ = ["close_clients"]
UUID = "GPU-00112233-4455-6677-8899-00bbccddeeff"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a libcuda.so.1."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is needed to build the stand-in driver")
    pytest.importorskip("cuda.bindings.driver")
    directory = tmp_path_factory.mktemp("GPU")
    source = Path(__file__).with_name("stand_in_memory.c")
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        str(directory / "libcuda.so.1"),
        str(source),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return directory


def environment(library: Path, fail: str = "") -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(library), "FAIL": fail, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def holder(library: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A holder of that GPU, with a model of 3 MiB; its socket."""
    path = tmp_path / "holder"
    argv = [sys.executable, "-m", "restore_driver.weights", "--socket", str(path), "--device", "0"]
    child = subprocess.Popen(
        [*argv, "--budget-bytes", str(64 * MIB)],
        cwd=ROOT,
        env=environment(library, getattr(request, "param", "")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n", child.communicate()[1]
    weights = Weights(tmp_path, seed=1)
    ask(path).preload("m", weights.files, weights.layout, 20.0)
    yield path
    child.kill()
    child.communicate()


def test_model_is_copied_to_the_gpu_and_exported(holder: Path, tmp_path: Path) -> None:
    expected = Weights(tmp_path, seed=1).expected
    client = ask(holder)
    before = client.status()
    free = before["free_device_bytes"]
    answer = client.ask({"do": "load", "model": "m", "gpu": UUID}, 10.0)
    token = answer["token"]
    assert (before["gpu"], answer["gpu"]) == (UUID, UUID)
    fd, size = client.take(token, 10.0)
    client.wait(token, 10.0)
    with mmap.mmap(fd, size) as memory:
        assert memory[: len(expected)] == expected
    os.close(fd)
    assert size % (2 * MIB) == 0
    assert client.status()["free_device_bytes"] == free - size

    client.done(token, 10.0)
    assert client.status()["free_device_bytes"] == free


def test_holder_of_another_gpu_refuses(holder: Path) -> None:
    with pytest.raises(DriverError) as refused:
        ask(holder).load("m", 10.0, "GPU-ffffffff-4455-6677-8899-00bbccddeeff")

    assert (refused.value.reason, UUID in refused.value.detail) == (Reason.WEIGHTS_FAILED, True)
    assert ask(holder).status()["leases"] == 0


@pytest.mark.parametrize(
    "holder", ["cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess", "cuMemcpyHtoDAsync"], indirect=True
)
def test_failed_copy_leaves_nothing_on_the_gpu(holder: Path) -> None:
    client = ask(holder)
    free = client.status()["free_device_bytes"]
    token = client.load("m", 10.0)
    for step in (client.wait, client.take):
        with pytest.raises(DriverError) as failed:
            step(token, 10.0)
        assert failed.value.reason is Reason.TOO_LITTLE_MEMORY
    client.release(token, 10.0)

    assert client.status()["free_device_bytes"] == free


def test_the_measured_rate_is_one(holder: Path) -> None:
    """The GPU of 1 GiB is too small for the yardstick of 2 GiB, and says so."""
    out_of_memory = pytest.raises(DriverError, match="cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY")
    with closing(HolderClient(holder)) as client, out_of_memory:
        client.measure()


REPLICA = """
import ctypes, sys
from cuda.bindings import driver
from restore_driver.replica.vmm import Range, VmmError, call
from restore_driver.weights.client import HolderClient

call("cuInit", 0)
call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", 0))
free = lambda: call("cuMemGetInfo")[0]
before = free()
holder = HolderClient(sys.argv[1])
token = holder.load("m", 10.0)
fd, size = holder.take(token, 10.0)
weights, kv = Range(size), Range(3 << 20)
address = weights.address
assert (kv.size_bytes, kv.address % 4096) == (4 << 20, 0)
kv.map_own()
ctypes.memset(kv.address, 7, kv.size_bytes)
weights.map_imported(fd)
holder.wait(token, 10.0)
holder.done(token, 10.0)
first = ctypes.string_at(weights.address, 64)
assert before - free() == 0, "mappings hold the memory, no handle does"
for piece in (weights, kv, weights):  # twice does no harm
    piece.unmap()
token = holder.load("m", 10.0)
weights.map_imported(holder.take(token, 10.0)[0])
holder.wait(token, 10.0)
assert weights.address == address and ctypes.string_at(address, 64) == first
print(first.hex())
"""


def test_a_replicas_ranges_keep_their_addresses(holder: Path, library: Path, tmp_path: Path) -> None:
    """Reserved once, mapped with the holder's memory, unmapped, mapped again: the same place, the same bytes."""
    done = subprocess.run(
        [sys.executable, "-c", REPLICA, str(holder)],
        cwd=ROOT,
        env=environment(library),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert bytes.fromhex(done.stdout) == Weights(tmp_path, seed=1).expected[:64]


def test_range_that_cannot_be_mapped_stays_unmapped(library: Path) -> None:
    program = (
        "from restore_driver.replica.vmm import Range, VmmError, call\n"
        "call('cuInit', 0); call('cuCtxSetCurrent', call('cuDevicePrimaryCtxRetain', 0))\n"
        "free = call('cuMemGetInfo')[0]; piece = Range(2 << 20)\n"
        "try: piece.map_own()\n"
        "except VmmError as error: print(error, piece.mapped, call('cuMemGetInfo')[0] == free)\n"
    )
    for name in ("cuMemCreate", "cuMemMap", "cuMemSetAccess"):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment(library, name), capture_output=True, text=True
        )
        assert done.stdout == f"{name}: CUDA_ERROR_OUT_OF_MEMORY False True\n", done.stderr


COPY = """
import ctypes, mmap, os, sys
from restore_driver.weights.device import CudaDevice

device = CudaDevice()
size = 40 << 20
source = mmap.mmap(-1, size)
source[:] = bytes(range(1, 251)) * (size // 250) + bytes(size % 250)
memory = device.allocate(size)
with memoryview(source) as view:
    memory.copy_from(view)
assert ctypes.string_at(int(memory._address), size) == source[:]
"""


def test_a_copy_leaves_the_copy_engine_to_others_in_between(library: Path, tmp_path: Path) -> None:
    """Never two copies queued: whatever else the GPU has to copy would wait for the last of them."""
    subprocess.run(
        [sys.executable, "-c", COPY],
        cwd=ROOT,
        env={**environment(library), "COPIES": str(tmp_path / "copies")},
        check=True,
        timeout=60,
    )
    logged = (tmp_path / "copies").read_text().split("\n")[:-1]

    assert logged == [f"copy {16 * MIB}", "wait 0", f"copy {16 * MIB}", "wait 0", f"copy {8 * MIB}", "wait 0"]


STACKS = """
from restore_driver.replica.stacks import Stacks
from restore_driver.replica.vmm import VmmError, call

call("cuInit", 0)
call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", 0))
free, stacks = lambda: call("cuMemGetInfo")[0] >> 20, Stacks()
before = free()
stacks.restore(0)
for _ in range(2):
    for _ in range(2):
        stacks.release(0)
    print(free() - before, end=" ")
    for _ in range(2):
        stacks.restore(0)
    print(free() - before, end=" ")
"""


@pytest.mark.parametrize(
    ("fail", "freed_mib"), [("", "256 0 256 0 "), ("cuCtxGetLimit", "0 0 0 0 "), ("cuCtxSetLimit", "0 0 0 0 ")]
)
def test_stacks_go_and_come_back_and_stay_where_the_driver_keeps_them(library: Path, fail: str, freed_mib: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STACKS],
        cwd=ROOT,
        env=environment(library, fail),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (0, freed_mib), done.stderr
