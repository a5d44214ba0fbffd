"""What a holder is asked wrongly, at once, or by the wrong ones; and what its card refuses in the middle."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.device import HostDevice, _CudaMemory
from restore_driver.weights.leases import Leases
from restore_driver.weights.store import Store
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


@pytest.mark.parametrize(
    "line",
    [
        '{"do": "preload", "model": "m", "files": 7, "total_bytes": 1, "offsets_bytes": {}}',
        '{"do": "preload", "model": "m", "files": [], "total_bytes": "many", "offsets_bytes": {}}',
        '{"do": "preload", "model": "m", "files": [], "total_bytes": 1, "offsets_bytes": 3}',
        '{"do": "load"}',
        '{"do": "dance"}',
    ],
)
def test_what_is_no_request_is_answered_and_costs_no_lease(line: str, begin: Begin, tmp_path: Path) -> None:
    weights = Weights(tmp_path, seed=1)
    _, path = begin()
    ask(path).preload("m", weights.files, weights.layout, 20.0)
    token, refused, after = raw(path, '{"do": "load", "model": "m"}', line, '{"do": "status"}')

    assert refused["reason"] == "RequestInvalid"
    assert (bool(token["token"]), after["leases"]) == (True, 1)
    while ask(path).status()["leases"]:
        pass  # it ends with the connection


def test_user_0_of_another_pid_namespace_is_nobody(begin: Begin, tmp_path: Path) -> None:
    """A container that sees the socket may take what it has a token for, and no more."""
    _, path = begin()
    program = (
        "from pathlib import Path; from restore_driver.weights.client import HolderClient; import sys\n"
        "HolderClient(Path(sys.argv[1])).status()"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert os.geteuid() == 0
    assert "NotTrusted: status is for root alone" in done.stderr
    assert ask(path).status()["leases"] == 0


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
    from restore_driver.weights.holder import Holder

    class Card(HostDevice):
        def uuid(self) -> str:
            return "GPU-1"

    holder = Holder(Card(CARD), tmp_path / "socket", 64 * MIB, None, False)
    holder._refuse_other_card("GPU-1")
    holder._refuse_other_card(None)
    with pytest.raises(DriverError, match="the replica is on GPU GPU-2, this holder's card is GPU-1"):
        holder._refuse_other_card("GPU-2")
