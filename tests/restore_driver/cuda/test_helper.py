"""The helper: the real process and the real bindings, over a stand-in driver where things go wrong on cue."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from restore_driver.cuda import CudaState, HelperClient, wire
from restore_driver.cuda.helper import Helper
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.message_stream import MessageStream
from restore_driver.logs import SILENT, LogFormat
from tests.restore_driver.cuda.conftest import StandIn
from tests.restore_driver.waiting import eventually

LONG_S = 30.0
SHORT_S = 0.3
FIRST, SECOND = (f"GPU-00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))


def test_one_helper_for_all_calls(stand_in: StandIn, client: HelperClient) -> None:
    subject = stand_in.spawn()
    client.start(LONG_S)
    helper = running_helper(client)
    client.lock(subject.pid, LONG_S)
    client.unlock(subject.pid, LONG_S)

    assert client.helper_pid == helper
    assert stand_in.calls() == [f"lock {subject.pid} timeout_ms=27000", f"unlock {subject.pid}"]


def test_took_s_is_the_calls_own_time(stand_in: StandIn, client: HelperClient) -> None:
    """Not the start of the helper, which the first call waits for."""
    subject = stand_in.spawn()
    began_s = time.monotonic()
    took_s = client.lock(subject.pid, LONG_S)

    assert 0.0 < took_s < time.monotonic() - began_s


def test_device_map_reaches_the_driver(stand_in: StandIn, client: HelperClient) -> None:
    subject = stand_in.spawn()
    stand_in.set_state(subject.pid, "checkpointed")
    client.restore(subject.pid, {FIRST: SECOND, SECOND: FIRST}, LONG_S)
    first, second = (uuid.removeprefix("GPU-").replace("-", "") for uuid in (FIRST, SECOND))

    assert stand_in.calls() == [f"restore {subject.pid} {first}>{second},{second}>{first}"]


@pytest.mark.parametrize(
    ("call", "code", "detail"),
    [
        ("checkpoint", 801, "cuCheckpointProcessCheckpoint of process {pid}: CUDA_ERROR_NOT_SUPPORTED"),
        ("checkpoint", 2, "cuCheckpointProcessCheckpoint of process {pid}: CUDA_ERROR_OUT_OF_MEMORY"),
        ("unlock", 401, "cuCheckpointProcessUnlock of process {pid}: CUDA_ERROR_ILLEGAL_STATE"),
    ],
)
def test_error_codes_name_call_process_and_code(
    stand_in: StandIn, client: HelperClient, call: str, code: int, detail: str
) -> None:
    subject = stand_in.spawn()
    stand_in.set_state(subject.pid, "locked")
    stand_in.fault(call, subject.pid, code)
    with pytest.raises(DriverError) as failed:
        getattr(client, call)(subject.pid, LONG_S)

    assert (failed.value.reason, failed.value.detail) == (Reason.CUDA_FAILED, detail.format(pid=subject.pid))
    assert failed.value.hint
    assert client.state(subject.pid) is CudaState.LOCKED


def test_hung_call_ends_its_helper_and_blocks_no_later_one(stand_in: StandIn, client: HelperClient) -> None:
    hung, well = stand_in.spawn(), stand_in.spawn()
    client.start(LONG_S)
    before = running_helper(client)
    stand_in.fault("lock", hung.pid, "hang")
    with pytest.raises(DriverError) as missed:
        client.lock(hung.pid, SHORT_S)
    client.lock(well.pid, LONG_S)

    assert missed.value.reason is Reason.DEADLINE_EXCEEDED
    assert client.state(well.pid) is CudaState.LOCKED
    assert client.helper_pid != before
    wait_until_gone(before)


def test_hung_call_does_not_disturb_running_calls(stand_in: StandIn, client: HelperClient) -> None:
    """The helper of a missed call lives on until the others' calls have their answers, or their own deadlines."""
    hung, slow = stand_in.spawn(), stand_in.spawn()
    client.start(LONG_S)
    for subject in (hung, slow):
        stand_in.fault("lock", subject.pid, "hang")
    before = running_helper(client)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.lock, slow.pid, 2.0)
        eventually(lambda: f"lock {slow.pid} timeout_ms=1800" in stand_in.calls(), "the lock call")
        with pytest.raises(DriverError):
            client.lock(hung.pid, SHORT_S)
        assert (waiting.done(), proc.is_alive(before)) == (False, True)
        with pytest.raises(DriverError) as missed:
            waiting.result()

    assert missed.value.reason is Reason.DEADLINE_EXCEEDED
    wait_until_gone(before)


def test_stopped_helper_is_replaced(stand_in: StandIn, client: HelperClient) -> None:
    """A helper that no longer answers at all, as under SIGSTOP."""
    subject = stand_in.spawn()
    client.start(LONG_S)
    before = running_helper(client)
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(DriverError) as missed:
        client.state(subject.pid, SHORT_S)

    assert missed.value.reason is Reason.DEADLINE_EXCEEDED
    assert client.state(subject.pid, LONG_S) is CudaState.RUNNING
    wait_until_gone(before)


def test_killed_helper_is_reported_and_replaced(stand_in: StandIn, client: HelperClient) -> None:
    subject = stand_in.spawn()
    stand_in.fault("lock", subject.pid, "hang")
    client.start(LONG_S)
    before = running_helper(client)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.lock, subject.pid, LONG_S)
        eventually(lambda: stand_in.calls() != [], "a call")
        os.kill(before, signal.SIGKILL)
        with pytest.raises(DriverError) as died:
            waiting.result()

    assert (died.value.reason, died.value.detail) == (Reason.CUDA_FAILED, "the CUDA helper is gone: it ended with -9")
    assert client.state(subject.pid, LONG_S) is CudaState.RUNNING


def test_many_threads_share_one_helper(stand_in: StandIn, client: HelperClient) -> None:
    subjects = [stand_in.spawn() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda subject: client.lock(subject.pid, LONG_S), subjects))

    assert [client.state(subject.pid) for subject in subjects] == [CudaState.LOCKED] * 8
    assert sorted(stand_in.calls()) == sorted(f"lock {subject.pid} timeout_ms=27000" for subject in subjects)


def test_helper_outlives_the_thread_that_started_it(stand_in: StandIn, client: HelperClient) -> None:
    """The kernel would kill it with the thread that started it."""
    starter = threading.Thread(target=client.start, args=(LONG_S,))
    starter.start()
    starter.join()
    first = running_helper(client)
    subject = stand_in.spawn()

    assert client.state(subject.pid) is CudaState.RUNNING
    assert client.helper_pid == first


def test_helper_dies_with_its_parent(stand_in: StandIn, client: HelperClient) -> None:
    """Also while a call hangs in it."""
    subject = stand_in.spawn()
    stand_in.fault("state", subject.pid, "hang")
    program = (
        "import sys, threading, pathlib\n"
        "from restore_driver.cuda import HelperClient\n"
        "client = HelperClient(pathlib.Path(sys.argv[1])); client.start(30)\n"
        "print(client.helper_pid, flush=True)\n"
        "client.state(int(sys.argv[2]), 600)\n"
    )
    command = [sys.executable, "-c", program, str(stand_in.directory), str(subject.pid)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        try:
            helper = int(parent.stdout.readline())
            eventually((stand_in.directory / "calls").exists, "a call")
            assert proc.is_alive(helper)
        finally:
            parent.kill()
    wait_until_gone(helper)


def test_close_ends_the_helper(stand_in: StandIn, client: HelperClient) -> None:
    client.start(LONG_S)
    helper = running_helper(client)
    client.close()

    wait_until_gone(helper)


def test_driver_that_does_not_start_is_missing(stand_in: StandIn, client: HelperClient) -> None:
    (stand_in.directory / "faults" / "init").write_text("100")
    with pytest.raises(DriverError) as missing:
        client.start(LONG_S)

    assert (missing.value.reason, missing.value.detail) == (Reason.CUDA_MISSING, "cuInit: CUDA_ERROR_NO_DEVICE")


def test_driver_that_hangs_at_its_start_misses_the_deadline(stand_in: StandIn, client: HelperClient) -> None:
    """A later call finds the helper up: one short deadline does not start it all over."""
    (stand_in.directory / "faults" / "init").write_text("hang")
    with pytest.raises(DriverError) as missed:
        client.start(SHORT_S)

    assert missed.value.reason is Reason.DEADLINE_EXCEEDED


def test_machine_without_a_driver(tmp_path: Path) -> None:
    """No libcuda anywhere, or one that is broken: missing, and never a crash."""
    pytest.importorskip("cuda.bindings.driver")
    (tmp_path / "libcuda.so.1").write_text("no library")
    broken = HelperClient(tmp_path)
    with pytest.raises(DriverError) as missing:
        broken.start(LONG_S)
    broken.close()

    assert missing.value.reason is Reason.CUDA_MISSING


def running_helper(client: HelperClient) -> int:
    """PID of the helper; fails where none runs."""
    assert client.helper_pid is not None
    return client.helper_pid


def wait_until_gone(pid: int) -> None:
    eventually(lambda: not proc.is_alive(pid), f"the end of process {pid}")


def test_another_version_is_refused_by_name(
    stand_in: StandIn, client: HelperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the helper, whose agent may be of another release; and by the agent, when the helper's first line has it."""
    subject = stand_in.spawn()
    client.start(LONG_S)
    monkeypatch.setattr(wire, "PROTOCOL_VERSION", 2)
    with pytest.raises(DriverError) as refused_by_agent:
        client.state(subject.pid)
    monkeypatch.setattr(wire, "check_version", lambda message: None)
    with pytest.raises(DriverError) as refused_by_helper:
        client.state(subject.pid)

    assert refused_by_agent.value.detail == "version 1 of the CUDA helper's protocol is not known, version 2 is"
    assert refused_by_helper.value.detail == "version 2 of the CUDA helper's protocol is not known, version 1 is"
    assert {refused_by_agent.value.reason, refused_by_helper.value.reason} == {Reason.REQUEST_INVALID}


def test_its_log_has_a_line_for_start_and_refusal_and_none_by_default(
    stand_in: StandIn, capfd: pytest.CaptureFixture[str]
) -> None:
    """A one-shot command's terminal shows nothing of it."""
    pytest.importorskip("cuda.bindings.driver")
    subject = stand_in.spawn()
    logs, pids = dict[LogFormat, list[dict[str, Any]]](), dict[LogFormat, int]()
    for form in (LogFormat.OFF, LogFormat.JSON):
        client = HelperClient(stand_in.directory, form)
        client.start(LONG_S)
        with pytest.raises(DriverError):
            client.restore(subject.pid, None, LONG_S)
        pids[form] = running_helper(client)
        client.close()
        logs[form] = [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    assert logs[LogFormat.OFF] == []
    started, refused = logs[LogFormat.JSON]
    pid = pids[LogFormat.JSON]
    assert (started["event"], started["process"], started["pid"]) == ("cuda_helper_started", "cuda-helper", pid)
    assert (refused["event"], refused["do"], refused["target_pid"]) == ("request_refused", "restore", subject.pid)
    assert (refused["reason"], refused["took_s"] >= 0.0) == ("CudaFailed", True)


def test_a_request_without_a_thread_is_answered(stand_in: StandIn) -> None:
    """The helper lives on, and serves the next one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        helper = Helper(theirs, SILENT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            helper._start({"id": 7, "do": "memory", "version": 1})
        answer = MessageStream(ours, 10_000).receive(LONG_S)

    assert answer is not None
    assert answer["id"] == 7
    assert answer["error"]["detail"] == "CUDA helper: can't start new thread"


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
