"""HTTP to a replica: its namespace, its key, its limits; and the hooks made of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_driver.engines import ProcessRoot, http, quiesce, resume
from restore_driver.engines.http import call
from restore_driver.errors import DriverError, Reason
from restore_driver.host.netns import in_network_namespace
from restore_driver.wire.replica_spec import HttpCall, HttpEngine
from tests.restore_driver.engines.fake_engines import HERE, FakeEngine, Reply, serving
from tests.restore_driver.waiting import eventually


class Plain(FakeEngine):
    def reply(self, method: str, path: str, query: dict[str, list[str]], body: object) -> Reply:
        return 200, {"method": method, "body": body}


@pytest.fixture
def plain() -> Iterator[Plain]:
    engine = Plain()
    with serving(engine):
        yield engine


def test_each_kind_of_body_arrives(plain: Plain) -> None:
    for body in (None, "text", {"a": [1]}):
        call(HttpCall(method="POST", url=f"{plain.base_url}/x?y=1", body=body), HERE, 5.0, Reason.PROOF_FAILED)

    assert (plain.asked, plain.bodies) == (["POST /x?y=1"] * 3, ["", "text", {"a": [1]}])


def test_the_key_of_a_trusted_file_is_sent(plain: Plain, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    key.chmod(0o600)
    request = HttpCall(url=plain.base_url + "/x", api_key_file=str(key))
    call(request, HERE, 5.0, Reason.PROOF_FAILED)
    assert plain.headers[0]["authorization"] == "Bearer secret"

    key.chmod(0o666)
    with pytest.raises(DriverError) as caught:
        call(request, HERE, 5.0, Reason.PROOF_FAILED)
    assert caught.value.reason is Reason.NOT_TRUSTED
    assert len(plain.asked) == 1


def test_redirects_are_not_followed(plain: Plain) -> None:
    plain.faults["/x"] = (302, None)
    with pytest.raises(DriverError, match="answered 302, not 200"):
        call(HttpCall(url=plain.base_url + "/x"), HERE, 5.0, Reason.PROOF_FAILED)
    assert plain.asked == ["GET /x"]


def test_a_long_answer_is_refused(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_ANSWER_BYTES", 1000)
    plain.faults["/x"] = (200, "y" * 2000)
    with pytest.raises(DriverError, match="answered more than 1,000 bytes"):
        call(HttpCall(url=plain.base_url + "/x"), HERE, 5.0, Reason.PROOF_FAILED)


def test_refused_connection_has_the_callers_reason() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        with pytest.raises(DriverError) as caught:
            call(HttpCall(url=url), HERE, 5.0, Reason.QUIESCE_FAILED)

    assert (caught.value.reason, caught.value.detail) == (
        Reason.QUIESCE_FAILED,
        f"GET {url} failed: [Errno 111] Connection refused",
    )


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nabc", b"HTTP/1.1 20", b"nonsense\r\n"])
def test_a_broken_answer_is_the_callers_reason(sent: bytes) -> None:
    with _raw_server(lambda connection: connection.sendall(sent)) as url, pytest.raises(DriverError) as caught:
        call(HttpCall(url=url), HERE, 5.0, Reason.PROOF_FAILED)
    assert caught.value.reason is Reason.PROOF_FAILED


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"])
def test_bytes_that_drip_end_at_the_deadline_and_leave_no_thread(head: bytes) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.01)

    with _raw_server(drip) as url, pytest.raises(DriverError) as caught:
        call(HttpCall(url=url), HERE, 0.2, Reason.PROOF_FAILED)

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    eventually(
        lambda: not any(thread.name.startswith("netns-") for thread in threading.enumerate()), "the end of the thread"
    )


def test_requests_go_to_the_replicas_network_namespace(plain: Plain, stranger: int) -> None:
    target = ProcessRoot(stranger, Path(f"/proc/{stranger}/root"))
    with pytest.raises(DriverError, match="Network is unreachable"):
        call(HttpCall(url=plain.base_url + "/x"), target, 5.0, Reason.PROOF_FAILED)


def test_a_hook_waits_for_idle_and_then_runs_in_order(plain: Plain) -> None:
    answers = iter([503, 503, 200])
    plain.reply = lambda method, path, query, body: (next(answers) if path == "/idle" else 200, None)  # type: ignore[method-assign]

    def hook(path: str) -> HttpCall:
        return HttpCall(method="POST", url=plain.base_url + path)

    spec = HttpEngine(
        kind="http",
        idle=HttpCall(url=plain.base_url + "/idle"),
        quiesce=(hook("/drain"), hook("/free")),
        resume=(hook("/back"),),
    )

    assert quiesce(spec, HERE, 5.0) == {"engine": "http", "calls": 2, "looks_for_idle": 3}
    assert resume(spec, HERE, 5.0) == {"engine": "http", "calls": 1}
    assert plain.asked == ["GET /idle"] * 3 + ["POST /drain", "POST /free", "POST /back"]


def test_calls_in_many_namespaces_at_once_do_not_mix(plain: Plain, stranger: int) -> None:
    """The threads of a resident agent: half of the calls reach us, half find no network."""
    found: list[str] = []

    def one(pid: int) -> None:
        try:
            call(HttpCall(url=plain.base_url + "/x"), ProcessRoot(pid, Path("/")), 5.0, Reason.PROOF_FAILED)
            found.append("answered")
        except DriverError:
            found.append("unreachable")

    threads = [threading.Thread(target=one, args=(pid,)) for pid in [HERE.host_pid, stranger] * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == ["answered"] * 10 + ["unreachable"] * 10
    assert in_network_namespace(HERE.host_pid, lambda: "still here", 5.0) == "still here"


class _raw_server:
    """Accepts one connection, reads the request's beginning and then acts as configured."""

    def __init__(self, act: object) -> None:
        self._act = act
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(1 << 16)
                self._act(connection)  # type: ignore[operator]
        except OSError:
            return

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/x"

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        self._thread.join(10.0)
