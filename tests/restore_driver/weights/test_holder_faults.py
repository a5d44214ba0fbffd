"""What fails in a holder midway: copies that fail or hang, threads that can't be had, models that come and go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.client import HolderClient
from restore_driver.weights.device import HostDevice
from restore_driver.weights.holder import Holder
from restore_driver.weights.leases import Leases
from restore_driver.weights.store import Store
from tests.restore_driver.waiting import eventually
from tests.restore_driver.weights.test_holder import GPU_BYTES, MIB, Weights, ask, begin, close_clients

__all__ = ["begin", "close_clients"]


def test_two_preloads_of_one_model_at_once_read_it_once(tmp_path: Path) -> None:
    weights = Weights(tmp_path, seed=1)
    pinned: list[int] = []

    class Counting(HostDevice):
        def pin(self, buffer: Any) -> Any:
            pinned.append(len(buffer))
            return lambda: pinned.pop()

    store = Store(Counting(GPU_BYTES), 64 * MIB)
    together = threading.Barrier(4)

    def preload() -> None:
        together.wait(20.0)
        store.preload("m", tuple(weights.files), weights.layout, 1 << 30)

    threads = [threading.Thread(target=preload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(pinned) == 1
    assert store.held_bytes == pinned[0]


def test_failed_copy_is_never_exported(tmp_path: Path) -> None:
    weights = Weights(tmp_path, seed=1)

    class Torn(HostDevice):
        def allocate(self, size_bytes: int) -> Any:
            memory: Any = super().allocate(size_bytes)

            def fail(source: memoryview) -> None:
                raise OSError("the bus is gone")

            memory.copy_from = fail
            return memory

    device = Torn(GPU_BYTES)
    store = Store(device, 64 * MIB)
    store.preload("m", tuple(weights.files), weights.layout, 1 << 30)
    leases = Leases(device, store)
    lease = leases.load("m")
    lease.copied.wait(20.0)
    for asked in (leases.export, leases.wait):
        with pytest.raises(DriverError, match="the bus is gone"):
            asked(lease.token)
    leases.release(lease.token)

    assert device.free_bytes() == GPU_BYTES


def test_released_lease_is_never_exported(tmp_path: Path) -> None:
    """Between looking it up and exporting it, another connection may release it."""
    weights = Weights(tmp_path, seed=1)
    device = HostDevice(GPU_BYTES)
    store = Store(device, 64 * MIB)
    store.preload("m", tuple(weights.files), weights.layout, 1 << 30)
    leases = Leases(device, store)
    lease = leases.load("m")
    leases.release(lease.token)
    leases.leases[lease.token] = lease  # as the other connection saw it
    with pytest.raises(DriverError) as refused:
        leases.export(lease.token)

    assert (refused.value.reason, refused.value.detail) == (Reason.WEIGHTS_FAILED, "the lease was given up")


HANGS_S = 600.0


class Hanging(HostDevice):
    """Copies that last until they are released."""

    def __init__(self) -> None:
        super().__init__(GPU_BYTES)
        self.copies, self.end = threading.Event(), threading.Event()

    def allocate(self, size_bytes: int) -> Any:
        memory: Any = super().allocate(size_bytes)
        copy = memory.copy_from

        def later(source: memoryview) -> None:
            self.copies.set()
            self.end.wait(HANGS_S)
            copy(source)

        memory.copy_from = later
        return memory


@contextmanager
def serving(device: HostDevice, path: Path, weights: Weights) -> Iterator[Holder]:
    """A holder within this process, with a model."""
    holder, ready = Holder(device, path, 64 * MIB, state=None, huge_pages=False), threading.Event()
    threading.Thread(target=holder.serve, args=(ready.set,), daemon=True).start()
    assert ready.wait(20.0)
    holder.store.preload("m", tuple(weights.files), weights.layout, 1 << 30)
    yield holder


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


@pytest.mark.parametrize("waiting", ["wait", "take"])
def test_client_may_disconnect_while_its_copy_hangs(
    waiting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the connection had ends with it, others are served meanwhile, the memory is given back in the end."""
    device, path = Hanging(), tmp_path / "socket"
    if waiting == "take":  # it hangs before there is memory
        allocate = device.allocate

        def allocate_later(size_bytes: int) -> Any:
            device.copies.set()
            device.end.wait(HANGS_S)
            return allocate(size_bytes)

        monkeypatch.setattr(device, "allocate", allocate_later)
    with serving(device, path, Weights(tmp_path, seed=1)) as holder:
        leaving = HolderClient(path)
        token = leaving.load("m", 20.0)
        assert device.copies.wait(20.0)
        with pytest.raises(DriverError) as late:
            getattr(leaving, waiting)(token, 0.05)
        assert late.value.reason is Reason.DEADLINE_EXCEEDED

        eventually(lambda: not threads("holder-client") and not holder.leases.leases, "the connection's end")
        assert ask(path).status(5.0)["leases"] == 0
        with pytest.raises(DriverError, match="no such lease"):
            ask(path).wait(token, 5.0)
        device.end.set()
        eventually(lambda: device.free_bytes() == GPU_BYTES, "the memory")


def test_a_release_waits_for_a_copy_a_while_and_no_longer(tmp_path: Path) -> None:
    """What it answers with is true of a copy that ends; one that hangs is given up by whom it hangs for."""
    device = Hanging()
    store = Store(device, 64 * MIB)
    weights = Weights(tmp_path, seed=1)
    store.preload("m", tuple(weights.files), weights.layout, 1 << 30)
    leases = Leases(device, store)
    first, second = leases.load("m"), leases.load("m")
    assert device.copies.wait(20.0)
    leases.release(first.token, patience_s=0.05)
    assert device.free_bytes() < GPU_BYTES
    releasing = threading.Thread(target=leases.release, args=(second.token,))
    releasing.start()
    device.end.set()
    releasing.join(20.0)
    eventually(lambda: device.free_bytes() == GPU_BYTES, "the memory")


def test_a_load_without_a_thread_promises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(HostDevice(GPU_BYTES), tmp_path / "socket", Weights(tmp_path, seed=1)) as holder:
        client, start = ask(tmp_path / "socket"), threading.Thread.start
        client.status()

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "load-m":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(DriverError) as refused:
            client.load("m", 10.0)
        assert (refused.value.reason, "can't start new thread" in refused.value.detail) == (Reason.WEIGHTS_FAILED, True)
        assert (holder.leases.leases, holder.leases._reserved_bytes) == ({}, 0)
        holder.store.drop("m")


def test_a_connection_waits_until_there_is_a_thread_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refusals = threading.Thread.start, [1]

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "holder-client" and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with serving(HostDevice(GPU_BYTES), tmp_path / "socket", Weights(tmp_path, seed=1)):
        assert ask(tmp_path / "socket").status()["leases"] == 0

    assert refusals == []


def test_models_may_come_and_go_while_they_are_counted(tmp_path: Path) -> None:
    store, weights = Store(HostDevice(GPU_BYTES), 64 * MIB), Weights(tmp_path, seed=1)
    for name in ("a", "b"):
        store.preload(name, tuple(weights.files), weights.layout, 1 << 30)
    dropping = threading.Thread(target=store.drop, args=("b",))

    class Looked:
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            if dropping.ident is None:
                dropping.start()
                dropping.join(0.1)
            return self.size

        def close(self) -> None:
            return

    looked: Any = Looked(len(store.models["a"].buffer))
    store.models["a"].buffer = looked

    assert store.held_bytes in (looked.size, 2 * looked.size)
    dropping.join(20.0)
    assert store.held_bytes == looked.size


def test_a_list_of_models_that_is_none_is_left_out(tmp_path: Path) -> None:
    for content in ("[7]", "7", '[{"model": "m"}]', '{"model": "m"}'):
        (tmp_path / "models.json").write_text(content)
        holder = Holder(
            HostDevice(GPU_BYTES), tmp_path / "socket", 64 * MIB, state=tmp_path / "models.json", huge_pages=False
        )
        assert len(holder.reload()) == 1, content
