"""The sample server proven, and each way in which it may be wrong found out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from restore_driver.engines import ProcessRoot
from restore_driver.engines.http import call
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.sockets import Listener
from restore_driver.proof import prove as proof
from restore_driver.proof.prove import ProofRecord
from restore_driver.spec_file import load_replica_spec
from restore_driver.wire.replica_spec import HttpCall, ReplicaSpec
from tests.restore_driver.engines.fake_engines import Helper
from tests.restore_driver.waiting import eventually

EXAMPLES = Path(__file__).parents[3] / "examples"


class Server:
    """One sample server on a port of its own, and the example's spec with that port."""

    def __init__(self, directory: Path, *options: str) -> None:
        program = [sys.executable, str(EXAMPLES / "counter_server.py"), "--port", "0", "--directory", str(directory)]
        self.child = subprocess.Popen([*program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        pid, self.url = self.child.stdout.readline().split()[1:]
        assert int(pid) == self.child.pid
        self.port = int(self.url.rsplit(":", 1)[1])
        spec = load_replica_spec(EXAMPLES / "counter_server.toml").model_dump_json()
        self.spec = ReplicaSpec.model_validate_json(spec.replace("http://127.0.0.1:8080", self.url))

    @property
    def target(self) -> ProcessRoot:
        return ProcessRoot(self.child.pid, Path(f"/proc/{self.child.pid}/root"))

    def ask(self, method: str, path: str) -> Any:
        request = HttpCall.model_validate({"method": method, "url": self.url + path})
        return json.loads(call(request, self.target, 10.0, Reason.PROOF_FAILED).body)

    def end(self) -> None:
        self.child.terminate()
        self.child.communicate()
        Path(f"/dev/shm/forethaw-counter-{self.port}").unlink()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "directory")
    yield made
    made.end()


def test_the_sample_server_holds_a_bit_of_everything(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        server.ask("POST", "/increment")
    memory = server.ask("GET", "/state")["memory"]
    server.ask("POST", "/increment")
    state = server.ask("GET", "/state")

    assert memory["digest"] != state["memory"]["digest"]
    assert state == {
        "count": 3,
        "pid": server.child.pid,
        "user_id": os.getuid(),
        "threads": ["MainThread", "ticker", "unix socket"],
        "ticking": True,
        "child": {"pid": proc.children(server.child.pid)[0], "count": 3},
        "shared_memory": {"path": f"/dev/shm/forethaw-counter-{server.port}", "text": "count 3"},
        "memory": {"bytes": 12 << 20, "digest": state["memory"]["digest"]},
        "unix_socket": {"path": "counter.sock", "answer": "3"},
        "file": {
            "path": str(tmp_path / "directory" / "counter.log"),
            "offset": 24,
            "text": "count 1\ncount 2\ncount 3\n",
        },
    }
    assert server.ask("GET", "/state") == state


def test_its_child_ends_with_it(server: Server) -> None:
    (child,) = proc.children(server.child.pid)
    server.child.kill()
    server.child.wait()
    eventually(lambda: not proc.is_alive(child), "the child's end")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")
def test_it_can_be_another_users(tmp_path: Path) -> None:
    """Though that user may not even pass the directories above its own."""
    server = Server(tmp_path / "directory", "--user", "1000")
    try:
        state = server.ask("GET", "/state")
        users = [proc.user_id(pid) for pid in proc.tree(server.child.pid)]
    finally:
        server.end()
    assert (state["user_id"], state["unix_socket"]["answer"], users) == (1000, "0", [1000, 1000])


def test_a_replica_that_is_as_before_is_proven(server: Server) -> None:
    server.ask("POST", "/increment")
    before = proof.record(server.spec, server.target, 10.0)
    proven = proof.prove(server.spec, server.target, before, 10.0)

    address = f"127.0.0.1:{server.port}"
    assert before.listeners == (Listener(host="127.0.0.1", port=server.port),)
    assert ProofRecord.model_validate_json(before.model_dump_json()) == before
    assert [(check.what, check.got) for check in proven.checks][:3] == [
        ("alive", True),
        ("listeners", [address]),
        (f"GET {server.url}/count", "[1]"),
    ]
    assert [check.what for check in proven.checks][3:] == [f"GET {server.url}/state"]


def test_a_replica_that_lives_and_is_wrong_is_not(server: Server) -> None:
    before = proof.record(server.spec, server.target, 10.0)
    server.ask("POST", "/increment")
    with pytest.raises(DriverError) as caught:
        proof.prove(server.spec, server.target, before, 10.0)

    assert caught.value.reason is Reason.PROOF_FAILED
    assert caught.value.detail == f"GET {server.url}/count answered [1], expected [0] as before"


def test_without_requests_each_listener_must_accept(server: Server) -> None:
    before = proof.record(ReplicaSpec(), server.target, 10.0)
    proven = proof.prove(ReplicaSpec(), server.target, before, 10.0)
    assert [check.what for check in proven.checks] == ["alive", "listeners", f"127.0.0.1:{server.port}"]

    missing = ProofRecord(listeners=(*before.listeners, Listener(host="::", port=1)))
    with pytest.raises(DriverError, match=r"no process listens on \[::\]:1; expected .*, got 127.0.0.1:"):
        proof.prove(ReplicaSpec(), server.target, missing, 10.0)


def test_a_dead_replica_is_not_proven(server: Server) -> None:
    before = proof.record(server.spec, server.target, 10.0)
    server.child.kill()
    server.child.wait()
    with pytest.raises(DriverError) as caught:
        proof.prove(server.spec, server.target, before, 10.0)
    assert (caught.value.reason, caught.value.detail) == (
        Reason.PROOF_FAILED,
        f"process {server.child.pid} is not alive",
    )


def test_the_deadline_holds_for_all_of_it(server: Server) -> None:
    before = proof.record(server.spec, server.target, 10.0)
    with pytest.raises(DriverError) as caught:
        proof.prove(server.spec, server.target, before, 1e-6)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED


def test_a_record_of_another_spec_proves_nothing(server: Server) -> None:
    with pytest.raises(DriverError, match="the spec has 2 known requests, the record 0 answers"):
        proof.prove(server.spec, server.target, ProofRecord(), 10.0)


def test_a_digest_that_changed_is_found(server: Server, tmp_path: Path) -> None:
    spec = ReplicaSpec.model_validate({"engine": {"kind": "inprocess", "socket": "/run/helper.sock"}})
    helper = Helper(tmp_path / "root")
    target = ProcessRoot(server.child.pid, helper.root)
    before = proof.record(spec, target, 10.0)
    held = proof.prove(spec, target, before, 10.0)
    helper.answer = lambda message: b'{"result": {"digest": "another"}}\n'
    with pytest.raises(DriverError) as caught:
        proof.prove(spec, target, before, 10.0)
    helper.close()

    assert (before.weights_digest, held.checks[2].got) == ("d", "d")
    assert (caught.value.reason, caught.value.detail) == (
        Reason.PROOF_FAILED,
        "the digest of the weights is another, expected d",
    )


def test_an_answer_that_never_stays_the_same_is_refused_while_nothing_is_touched(server: Server) -> None:
    spec = ReplicaSpec.model_validate(
        {"proof": {"requests": [{"call": {"method": "POST", "url": server.url + "/increment"}}]}}
    )
    with pytest.raises(DriverError) as caught:
        proof.record(spec, server.target, 10.0)
    assert caught.value.reason is Reason.PROOF_FAILED
    assert "compare only what stays the same" in caught.value.detail
