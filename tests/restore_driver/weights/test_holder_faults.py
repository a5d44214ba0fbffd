"""What a holder is asked wrongly, at once, or by the wrong ones; and what its card refuses in the middle."""

from __future__ import annotations

import array
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.weights import holder as holding
from restore_driver.weights.client import HolderClient
from restore_driver.weights.device import HostDevice, _CudaMemory, measure_pinned_rate
from restore_driver.weights.holder import Holder
from restore_driver.weights.leases import Leases
from restore_driver.weights.store import Store
from tests.restore_driver.waiting import eventually
from tests.restore_driver.weights.test_holder import CARD, MIB, ROOT, Begin, Weights, ask, begin, close_clients

__all__ = ["begin", "close_clients"]


def raw(path: Path, *lines: str) -> list[dict[str, Any]]:
    """Lines as they are, over one connection; an answer each."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20.0)
        connection.connect(str(path))
        answers = []
        with connection.makefile("rb") as said:
            for line in lines:
                connection.sendall(line.encode() + b"\n")
                answers.append(json.loads(said.readline()))
    return answers


PRELOAD: dict[str, Any] = {
    "do": "preload",
    "model": "m",
    "files": ["/m.safetensors"],
    "total_bytes": 1,
    "offsets_bytes": {"layer": 0},
}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({**PRELOAD, "files": 7}, "preload: files is 7, no list of paths"),
        ({**PRELOAD, "files": [7]}, "preload: files is [7], no list of paths"),
        ({**PRELOAD, "files": []}, "preload: files is [], no list of paths"),
        ({**PRELOAD, "total_bytes": "many"}, "preload: total_bytes is 'many', no size"),
        ({**PRELOAD, "total_bytes": True}, "preload: total_bytes is True, no size"),
        ({**PRELOAD, "total_bytes": 0}, "preload: total_bytes is 0, no size"),
        ({**PRELOAD, "offsets_bytes": 3}, "preload: offsets_bytes is 3, no table of sizes"),
        ({**PRELOAD, "offsets_bytes": {"layer": "0"}}, "preload: offsets_bytes is {'layer': '0'}, no table of sizes"),
        ({**PRELOAD, "offsets_bytes": {"layer": -1}}, "preload: offsets_bytes is {'layer': -1}, no table of sizes"),
        ({"do": "load"}, "load: model is None, no text"),
        ({"do": "load", "model": ["m"]}, "load: model is ['m'], no text"),
        ({"do": "load", "model": "m", "gpu": 1}, "load: gpu is 1, no text"),
        ({"do": "take", "token": 5}, "take: token is 5, no text"),
        ({"do": "dance"}, "there is no request 'dance'"),
    ],
)
def test_what_is_no_request_is_answered_by_its_field_and_costs_no_lease(
    message: dict[str, Any], said: str, begin: Begin, tmp_path: Path
) -> None:
    weights = Weights(tmp_path, seed=1)
    _, path = begin()
    ask(path).preload("m", weights.files, weights.layout, 20.0)
    token, refused, after = raw(path, '{"do": "load", "model": "m"}', json.dumps(message), '{"do": "status"}')

    assert (refused["reason"], refused["error"]) == ("RequestInvalid", said)
    assert (bool(token["token"]), after["leases"]) == (True, 1)
    eventually(lambda: ask(path).status()["leases"] == 0, "the end of the connection's lease")


@pytest.mark.parametrize("line", ["nonsense", "[]", "[" * 100_000])
def test_what_is_no_message_is_answered_and_ends_the_connection(line: str, begin: Begin) -> None:
    _, path = begin()
    (refused,) = raw(path, line)

    assert refused["reason"] == "RequestInvalid"
    assert ask(path).status()["leases"] == 0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_descriptors_that_nobody_asked_for_are_closed(begin: Begin) -> None:
    """Whoever sees the socket may send some, several at once, and without ever ending the line."""
    holder, path = begin()
    before = descriptors(holder.pid)
    with open("/dev/null") as null, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 2))]
        for _ in range(50):
            connection.sendmsg([b" "], rights)
        connection.sendall(b'{"do": "dance"}\n')
        assert b"there is no request" in connection.recv(4096)

        assert descriptors(holder.pid) == before + 1


def test_a_holder_without_descriptors_keeps_its_models(begin: Begin, tmp_path: Path) -> None:
    """Others wait until there are some again; it does not end."""
    weights = Weights(tmp_path, seed=1)
    holder, path = begin()
    ask(path).preload("m", weights.files, weights.layout, 20.0)
    resource.prlimit(holder.pid, resource.RLIMIT_NOFILE, (descriptors(holder.pid) + 4, 4096))
    crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(20)]
    for each in crowd:
        each.connect(str(path))
    crowd[0].sendall(b'{"do": "dance"}\n')
    assert crowd[0].recv(4096)
    limit, _ = resource.prlimit(holder.pid, resource.RLIMIT_NOFILE)
    eventually(lambda: descriptors(holder.pid) == limit, "the last descriptor")
    for each in crowd:
        each.close()

    assert list(ask(path).status(20.0)["models"]) == ["m"]


STRANGER = """
import os, sys
from restore_driver.errors import DriverError
from restore_driver.weights.client import HolderClient

path, token = sys.argv[1:]
client = HolderClient(path)
for what in ("status", "drop", "preload", "load", "release", "measure"):
    try:
        client.ask({"do": what, "model": "m", "token": token}, 10.0)
    except DriverError as error:
        assert str(error).startswith(f"NotTrusted: {what} is for root alone; "), error
        print(what)
fd, _ = client.take(token, 10.0)
print(os.geteuid(), os.fstat(fd).st_size)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="other namespaces need root")
@pytest.mark.parametrize("kinds", [("--pid", "--fork", "--kill-child"), ("--user", "--map-root-user")])
def test_user_0_of_another_namespace_is_nobody(kinds: tuple[str, ...], begin: Begin, tmp_path: Path) -> None:
    """A container that sees the socket may take what it has a token for, and no more."""
    weights = Weights(tmp_path, seed=1)
    _, path = begin()
    client = ask(path)
    client.preload("m", weights.files, weights.layout, 20.0)
    token = client.load("m", 20.0)
    command = ["unshare", *kinds, sys.executable, "-c", STRANGER, str(path), token]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    refused = ["status", "drop", "preload", "load", "release", "measure"]
    assert done.stdout.split() == [*refused, "0", str(len(weights.expected))], done.stderr
    status = client.status()
    assert (status["leases"], list(status["models"])) == (1, ["m"])


def test_a_peer_that_ended_is_nobody_whoever_has_its_pid_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have left its connection to somebody else; a PID that came round again must not vouch for that one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        program = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(flush=True); input()"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "socket")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            connection, _ = listener.accept()
            assert holding.is_ours(connection)
            child.communicate("\n")
        if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 5):
            pytest.skip("the kernel can't tell")
        monkeypatch.setattr(holding, "peer", lambda connection: (os.getpid(), os.geteuid()))

        with connection:
            assert not holding.is_ours(connection)


def test_two_preloads_of_one_model_at_once_read_it_once(tmp_path: Path) -> None:
    weights = Weights(tmp_path, seed=1)
    pinned: list[int] = []

    class Counting(HostDevice):
        def pin(self, buffer: Any) -> Any:
            pinned.append(len(buffer))
            return lambda: pinned.pop()

    store = Store(Counting(CARD), 64 * MIB)
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


def test_a_copy_that_failed_is_handed_to_nobody(tmp_path: Path) -> None:
    weights = Weights(tmp_path, seed=1)

    class Torn(HostDevice):
        def allocate(self, size_bytes: int) -> Any:
            memory: Any = super().allocate(size_bytes)

            def fail(source: memoryview) -> None:
                raise OSError("the bus is gone")

            memory.copy_from = fail
            return memory

    device = Torn(CARD)
    store = Store(device, 64 * MIB)
    store.preload("m", tuple(weights.files), weights.layout, 1 << 30)
    leases = Leases(device, store)
    lease = leases.load("m")
    lease.copied.wait(20.0)
    for asked in (leases.export, leases.wait):
        with pytest.raises(DriverError, match="the bus is gone"):
            asked(lease.token)
    leases.release(lease.token)

    assert device.free_bytes() == CARD


def test_a_lease_that_was_given_up_is_handed_to_nobody(tmp_path: Path) -> None:
    """Between looking it up and exporting it, another connection may release it."""
    weights = Weights(tmp_path, seed=1)
    device = HostDevice(CARD)
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
    """Copies go on until they are told to end."""

    def __init__(self) -> None:
        super().__init__(CARD)
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
    holder, ready = Holder(device, path, 64 * MIB, None, False), threading.Event()
    threading.Thread(target=holder.serve, args=(ready.set,), daemon=True).start()
    assert ready.wait(20.0)
    holder.store.preload("m", tuple(weights.files), weights.layout, 1 << 30)
    yield holder


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


@pytest.mark.parametrize("waiting", ["wait", "take"])
def test_whoever_waits_for_a_copy_that_hangs_may_leave(
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

        eventually(lambda: not threads("holder-asker") and not holder.leases.leases, "the connection's end")
        assert ask(path).status(5.0)["leases"] == 0
        with pytest.raises(DriverError, match="no such lease"):
            ask(path).wait(token, 5.0)
        device.end.set()
        eventually(lambda: device.free_bytes() == CARD, "the memory")


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
    assert device.free_bytes() < CARD
    releasing = threading.Thread(target=leases.release, args=(second.token,))
    releasing.start()
    device.end.set()
    releasing.join(20.0)
    eventually(lambda: device.free_bytes() == CARD, "the memory")


def test_a_load_without_a_thread_promises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(HostDevice(CARD), tmp_path / "socket", Weights(tmp_path, seed=1)) as holder:
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
        assert (holder.leases.leases, holder.leases._promised_bytes) == ({}, 0)
        holder.store.drop("m")


def test_a_connection_without_a_thread_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refusals = threading.Thread.start, [1]

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "holder-asker" and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with serving(HostDevice(CARD), tmp_path / "socket", Weights(tmp_path, seed=1)):
        with pytest.raises(DriverError):
            ask(tmp_path / "socket").status()
        assert ask(tmp_path / "socket").status()["leases"] == 0


def test_models_may_come_and_go_while_they_are_counted(tmp_path: Path) -> None:
    store, weights = Store(HostDevice(CARD), 64 * MIB), Weights(tmp_path, seed=1)
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
        holder = Holder(HostDevice(CARD), tmp_path / "socket", 64 * MIB, tmp_path / "models.json", False)
        assert len(holder.reload()) == 1, content


def test_host_memory_that_can_not_be_had_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    device, before = HostDevice(CARD), descriptors(os.getpid())

    def fail(fd: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="No space left"):
        device.allocate(4096)

    assert (device.free_bytes(), descriptors(os.getpid())) == (CARD, before)


@pytest.mark.parametrize("failing", ["allocate", "copy", None])
def test_a_measurement_leaves_nothing_page_locked(failing: str | None) -> None:
    pinned: list[int] = []

    class Counting(HostDevice):
        def pin(self, buffer: Any) -> Any:
            pinned.append(1)
            return pinned.pop

        def allocate(self, size_bytes: int) -> Any:
            memory: Any = super().allocate(size_bytes * (CARD if failing == "allocate" else 1))
            if failing == "copy":
                memory.copy_from = lambda source: 1 // 0
            return memory

    device = Counting(CARD)
    if failing is None:
        assert measure_pinned_rate(device, 1 << 20) > 0.0
    else:
        with pytest.raises((DriverError, ZeroDivisionError)):
            measure_pinned_rate(device, 1 << 20)

    assert (pinned, device.free_bytes()) == ([], CARD)


def test_memory_that_can_not_be_unmapped_is_let_go_of_nevertheless() -> None:
    asked: list[str] = []

    class Card:
        _properties = _access = None

        def _enter(self) -> None:
            return

        def _call(self, name: str, *arguments: Any) -> int:
            asked.append(name)
            if name == "cuMemUnmap":
                raise DriverError(Reason.WEIGHTS_FAILED, name)
            return 1

    card: Any = Card()
    memory = _CudaMemory(card, 4096)
    with pytest.raises(DriverError):
        memory.release()

    assert asked[4:] == ["cuMemUnmap", "cuMemAddressFree", "cuMemRelease"]


@pytest.mark.parametrize("failing", ["cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"])
def test_memory_that_can_not_be_had_whole_is_given_back(failing: str) -> None:
    made: list[str] = []

    class Card:
        _properties = _access = None

        def _call(self, name: str, *arguments: Any) -> int:
            if name == failing:
                raise DriverError(Reason.TOO_LITTLE_MEMORY, name)
            made.append(name)
            return 1

    card: Any = Card()
    with pytest.raises(DriverError):
        _CudaMemory(card, 4096)

    forth = ["cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"]
    back = {"cuMemCreate": "cuMemRelease", "cuMemAddressReserve": "cuMemAddressFree", "cuMemMap": "cuMemUnmap"}
    done = forth[: forth.index(failing)]
    assert made == done + [back[name] for name in reversed(done)]


def test_the_holder_of_another_card_refuses(tmp_path: Path) -> None:
    class Card(HostDevice):
        def uuid(self) -> str:
            return "GPU-1"

    holder = Holder(Card(CARD), tmp_path / "socket", 64 * MIB, None, False)
    holder._refuse_other_card("GPU-1")
    holder._refuse_other_card(None)
    with pytest.raises(DriverError, match="the replica is on GPU GPU-2, this holder's card is GPU-1"):
        holder._refuse_other_card("GPU-2")
