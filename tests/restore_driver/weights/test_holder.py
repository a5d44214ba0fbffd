"""The weights holder as a process of its own, with memfds for a GPU: the same protocol, budget, leases and deaths.

What a GPU adds is tested where there is one (`benchmarks/gpu_restore.py`).
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.client import HolderClient
from restore_driver.weights.safetensors import Layout, check, index
from tests.restore_driver.waiting import eventually

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
GPU_BYTES = 1 << 30


def write_safetensors(path: Path, tensors: dict[str, bytes]) -> None:
    """A file as the format's document says."""
    header, at = {}, 0
    for name, content in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))


class Weights:
    """A model in two shards, its layout, and the bytes that a replica must find in its range."""

    def __init__(self, directory: Path, seed: int, size: int = 3 * MIB) -> None:
        draw = random.Random(seed)
        tensors = {f"layer.{n}": draw.randbytes(size // 4 + n) for n in range(4)}
        self.files = [directory / f"model-{seed}-{shard}.safetensors" for shard in range(2)]
        write_safetensors(self.files[0], {name: tensors[name] for name in ("layer.2", "layer.0")})
        write_safetensors(self.files[1], {name: tensors[name] for name in ("layer.1", "layer.3")})
        offsets, at, expected = {}, 0, bytearray()
        for name, content in tensors.items():
            offsets[name] = at
            expected += content + bytes(-len(content) % 256)
            at = len(expected)
        expected += bytes(-len(expected) % mmap.PAGESIZE)
        self.expected, self.layout = bytes(expected), Layout(len(expected), offsets)


OPEN: list[HolderClient] = []


def ask(socket: Path) -> HolderClient:
    """A client that is closed after the test."""
    OPEN.append(HolderClient(socket))
    return OPEN[-1]


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


Begin = Callable[..., tuple[subprocess.Popen[str], Path]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts holders; ends them after the test."""
    started: list[subprocess.Popen[str]] = []
    sockets = Path(tempfile.mkdtemp(prefix="holder-"))  # pytest's own directory lets no other user in
    sockets.chmod(0o711)

    def start(
        budget: int = 64 * MIB, gpu: int = GPU_BYTES, state: Path | None = None
    ) -> tuple[subprocess.Popen[str], Path]:
        socket = sockets / str(len(started))
        argv = [sys.executable, "-m", "restore_driver.weights", "--socket", str(socket)]
        argv += ["--budget-bytes", str(budget), "--device", f"host:{gpu}"]
        argv += [] if state is None else ["--state", str(state)]
        holder = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        return holder, socket

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()
    shutil.rmtree(sockets)


def taken(client: HolderClient, token: str) -> mmap.mmap:
    """What a replica does with a lease: take, map, wait, done."""
    fd, size = client.take(token, 10.0)
    mapped = mmap.mmap(fd, size)
    os.close(fd)
    client.wait(token, 10.0)
    client.done(token, 10.0)
    return mapped


def test_a_replica_finds_its_weights_where_its_layout_says(begin: Begin, tmp_path: Path) -> None:
    _, socket = begin()
    model, client = Weights(tmp_path, 1), ask(socket)
    client.preload("chat", model.files, model.layout, 10.0)
    mapped = taken(client, client.load("chat", 10.0))

    assert mapped[: len(model.expected)] == model.expected
    assert client.status()["leases"] == 0


def test_two_loads_at_once_are_two(begin: Begin, tmp_path: Path) -> None:
    _, socket = begin()
    models = {f"model-{seed}": Weights(tmp_path, seed) for seed in (1, 2)}
    client = ask(socket)
    for name, model in models.items():
        client.preload(name, model.files, model.layout, 10.0)
    found: dict[str, bytes] = {}

    def load(name: str) -> None:
        mine = ask(socket)
        found[name] = bytes(taken(mine, mine.load(name, 10.0))[:])

    threads = [threading.Thread(target=load, args=(name,)) for name in [*models] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {name: content[: len(models[name].expected)] for name, content in found.items()} == {
        name: model.expected for name, model in models.items()
    }


def test_gpu_with_too_little_memory_refuses_and_stays_unchanged(begin: Begin, tmp_path: Path) -> None:
    _, socket = begin(gpu=2 * MIB + (512 << 20))
    model, client = Weights(tmp_path, 1), ask(socket)
    client.preload("chat", model.files, model.layout, 10.0)
    before = client.status()
    with pytest.raises(DriverError) as caught:
        client.load("chat", 10.0)

    assert caught.value.reason is Reason.TOO_LITTLE_MEMORY
    assert client.status() == before


def test_a_promise_counts_as_memory_taken(begin: Begin, tmp_path: Path) -> None:
    """Room for one of two: the second is refused while the first is not yet taken, and served once it is let go."""
    _, socket = begin(gpu=5 * MIB + (512 << 20))
    model, client = Weights(tmp_path, 1), ask(socket)
    client.preload("chat", model.files, model.layout, 10.0)
    first = client.load("chat", 10.0)
    with pytest.raises(DriverError, match="are free"):
        client.load("chat", 10.0)
    client.release(first, 10.0)
    client.release(client.load("chat", 10.0), 10.0)


def test_the_least_recently_used_model_makes_room(begin: Begin, tmp_path: Path) -> None:
    _, socket = begin(budget=9 * MIB)
    client = ask(socket)
    for seed in (1, 2):
        model = Weights(tmp_path, seed)
        client.preload(f"model-{seed}", model.files, model.layout, 10.0)
    client.release(client.load("model-1", 10.0), 10.0)
    third = Weights(tmp_path, 3)
    client.preload("model-3", third.files, third.layout, 10.0)

    assert sorted(client.status()["models"]) == ["model-1", "model-3"]


def test_model_larger_than_the_budget_evicts_no_other(begin: Begin, tmp_path: Path) -> None:
    _, socket = begin(budget=9 * MIB)
    client, small, large = ask(socket), Weights(tmp_path, 1), Weights(tmp_path, 2, 12 * MIB)
    client.preload("small", small.files, small.layout, 10.0)
    with pytest.raises(DriverError, match="the budget is") as caught:
        client.preload("large", large.files, large.layout, 10.0)

    assert caught.value.reason is Reason.TOO_LITTLE_MEMORY
    assert sorted(client.status()["models"]) == ["small"]


def test_memory_that_was_handed_over_survives_the_holders_death(begin: Begin, tmp_path: Path) -> None:
    state = tmp_path / "models.json"
    holder, socket = begin(state=state)
    model, client = Weights(tmp_path, 1), ask(socket)
    client.preload("chat", model.files, model.layout, 10.0)
    mapped = taken(client, client.load("chat", 10.0))
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    assert mapped[: len(model.expected)] == model.expected
    _, socket = begin(state=state)
    again = ask(socket)
    assert taken(again, again.load("chat", 10.0))[: len(model.expected)] == model.expected


def test_a_lease_ends_with_the_connection_that_began_it(begin: Begin, tmp_path: Path) -> None:
    _, socket = begin()
    model, client = Weights(tmp_path, 1), ask(socket)
    client.preload("chat", model.files, model.layout, 10.0)
    gone = ask(socket)
    token = gone.load("chat", 10.0)
    gone.close()
    eventually(lambda: not client.status()["leases"], "the lease's end")

    with pytest.raises(DriverError, match="no such lease"):
        client.take(token, 10.0)


def test_another_user_may_take_what_it_has_a_token_for_and_nothing_else(begin: Begin, tmp_path: Path) -> None:
    _, socket = begin()
    model, client = Weights(tmp_path, 1), ask(socket)
    client.preload("chat", model.files, model.layout, 10.0)
    token = client.load("chat", 10.0)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os.setgid(1000)
            os.setuid(1000)
            stranger = ask(socket)
            said = []
            for request in (lambda: stranger.take("guessed", 10.0), lambda: stranger.load("chat", 10.0)):
                try:
                    request()
                except DriverError as error:
                    said.append(error.reason.value)
            fd, size = stranger.take(token, 10.0)
            os.write(theirs, json.dumps([*said, size]).encode())
            os.close(fd)
            stranger.close()
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    answer = os.read(ours, 1000)
    os.close(ours)

    assert json.loads(answer) == ["WeightsFailed", "NotTrusted", len(model.expected)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no safetensors file"),
        (struct.pack("<Q", 1 << 40), "header would be"),
        (struct.pack("<Q", 2) + b"[]", "no safetensors file"),
        (struct.pack("<Q", 5) + b"{nope", "no safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DriverError, match=said) as caught:
        index([tmp_path / "x.safetensors"])

    assert "x.safetensors" in caught.value.detail


def test_a_cut_off_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    model = Weights(tmp_path, 1)
    model.files[0].write_bytes(model.files[0].read_bytes()[:-1])
    with pytest.raises(DriverError, match="lies outside"):
        index(model.files)


def test_a_layout_that_does_not_fit_its_tensors_is_refused(tmp_path: Path) -> None:
    model = Weights(tmp_path, 1)
    tensors = index(model.files)
    offsets = dict(model.layout.offsets_bytes)
    for layout, said in (
        (Layout(model.layout.total_bytes, {**offsets, "layer.9": 0}), "layer.9 is in none"),
        (Layout(model.layout.total_bytes, {**offsets, "layer.1": 1}), "overlaps"),
        (Layout(MIB, offsets), "the tensors end"),
    ):
        with pytest.raises(DriverError, match=said):
            check(layout, tensors)
