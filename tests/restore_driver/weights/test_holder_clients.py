"""What a holder is asked wrongly, or by the wrong ones."""

from __future__ import annotations

import array
import json
import os
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from restore_driver.errors import DriverError
from restore_driver.host import unix_sockets
from restore_driver.weights.device import HostDevice
from restore_driver.weights.holder import Holder
from tests.restore_driver.trees import descriptors
from tests.restore_driver.waiting import eventually
from tests.restore_driver.weights.test_holder import GPU_BYTES, MIB, ROOT, Begin, Weights, ask, begin, close_clients

__all__ = ["begin", "close_clients"]


def versioned(line: str) -> str:
    """A request that names no version gets the current one; what is no request stays as it is."""
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return json.dumps({"version": 1, **message})
    return line


def raw(path: Path, *lines: str) -> list[dict[str, Any]]:
    """Lines as they are, over one connection; an answer each."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20.0)
        connection.connect(str(path))
        answers = []
        with connection.makefile("rb") as said:
            for line in map(versioned, lines):
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
        ({**PRELOAD, "files": 7}, "preload: files is 7, not a list of paths"),
        ({**PRELOAD, "files": [7]}, "preload: files is [7], not a list of paths"),
        ({**PRELOAD, "files": []}, "preload: files is [], not a list of paths"),
        ({**PRELOAD, "total_bytes": "many"}, "preload: total_bytes is 'many', not a size"),
        ({**PRELOAD, "total_bytes": True}, "preload: total_bytes is True, not a size"),
        ({**PRELOAD, "total_bytes": 0}, "preload: total_bytes is 0, not a size"),
        ({**PRELOAD, "offsets_bytes": 3}, "preload: offsets_bytes is 3, not a table of sizes"),
        (
            {**PRELOAD, "offsets_bytes": {"layer": "0"}},
            "preload: offsets_bytes is {'layer': '0'}, not a table of sizes",
        ),
        ({**PRELOAD, "offsets_bytes": {"layer": -1}}, "preload: offsets_bytes is {'layer': -1}, not a table of sizes"),
        ({"do": "load"}, "load: model is None, not text"),
        ({"do": "load", "model": ["m"]}, "load: model is ['m'], not text"),
        ({"do": "load", "model": "m", "gpu": 1}, "load: gpu is 1, not text"),
        ({"do": "take", "token": 5}, "take: token is 5, not text"),
        ({"do": "dance"}, "there is no request 'dance'"),
        (
            {"do": "status", "version": 2},
            "version 2 of the weights holder's protocol is not known, version 1 is",
        ),
        (
            {"do": "status", "version": None},
            "version None of the weights holder's protocol is not known, version 1 is",
        ),
    ],
)
def test_what_is_no_request_is_answered_by_its_field_and_costs_no_lease(
    message: dict[str, Any], said: str, begin: Begin, tmp_path: Path
) -> None:
    weights = Weights(tmp_path, seed=1)
    _, path = begin()
    ask(path).preload("m", weights.files, weights.layout, 20.0)
    token, refused, after = raw(path, '{"do": "load", "model": "m"}', json.dumps(message), '{"do": "status"}')

    assert set(refused["error"]) == {"reason", "detail", "hint"}
    assert (refused["error"]["reason"], refused["error"]["detail"]) == ("RequestInvalid", said)
    assert (bool(token["token"]), after["leases"]) == (True, 1)
    eventually(lambda: ask(path).status()["leases"] == 0, "the end of the connection's lease")


@pytest.mark.parametrize("line", ["nonsense", "[]", "[" * 100_000])
def test_what_is_no_message_is_answered_and_ends_the_connection(line: str, begin: Begin) -> None:
    _, path = begin()
    (refused,) = raw(path, line)

    assert refused["error"]["reason"] == "RequestInvalid"
    assert ask(path).status()["leases"] == 0


def test_unrequested_descriptors_are_closed(begin: Begin) -> None:
    """Whoever sees the socket may send some, several at once, and without ever ending the line."""
    holder, path = begin()
    before = descriptors(holder.pid)
    with open("/dev/null") as null, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 2))]
        for _ in range(50):
            connection.sendmsg([b" "], rights)
        connection.sendall(b'{"do": "dance", "version": 1}\n')
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
def test_user_0_of_another_namespace_is_not_trusted(kinds: tuple[str, ...], begin: Begin, tmp_path: Path) -> None:
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


def test_peer_that_ended_is_not_trusted_even_if_its_pid_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            assert unix_sockets.is_same_machine_root(connection)
            child.communicate("\n")
        if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 5):
            pytest.skip("the kernel can't tell")
        monkeypatch.setattr(unix_sockets, "peer", lambda connection: (os.getpid(), os.geteuid()))

        with connection:
            assert not unix_sockets.is_same_machine_root(connection)


def test_holder_of_another_gpu_refuses(tmp_path: Path) -> None:
    class Gpu(HostDevice):
        def uuid(self) -> str:
            return "GPU-1"

    holder = Holder(Gpu(GPU_BYTES), tmp_path / "socket", 64 * MIB, state=None, huge_pages=False)
    holder._refuse_other_gpu("GPU-1")
    holder._refuse_other_gpu(None)
    with pytest.raises(DriverError, match="the replica is on GPU GPU-2, this holder's GPU is GPU-1"):
        holder._refuse_other_gpu("GPU-2")
