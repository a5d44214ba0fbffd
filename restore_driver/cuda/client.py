"""The agent's side of the CUDA helper: start it, send requests, kill it when a call hangs.

A `_Helper` is one process and one thread of ours. That thread starts the process and reads its answers: the kernel
ties the helper's life (`PR_SET_PDEATHSIG`) to the *thread* that started it, and this one lives as long. Callers wait
for their own answer with their own deadline, so that several can wait at once.

When a call misses its deadline, its helper is retired: it takes no more requests, a new one starts at once (its cuInit
runs while the caller goes on), and the old one's process group is killed as soon as no other caller waits for it.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import restore_driver
from restore_driver.cuda import wire
from restore_driver.cuda.gpu_map import DeviceMap
from restore_driver.cuda.ports import STATE_DEADLINE_S
from restore_driver.cuda.readings import MemoryReading
from restore_driver.cuda.states import CudaAction, CudaState
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Message, encode
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import VERSION
from restore_driver.host.process import kill_group
from restore_driver.host.spawn import Child, spawn
from restore_driver.logs import LogFormat

START_S = 30.0
"""For a helper's start: cuInit takes tenths of a second with persistence mode, and seconds a GPU without."""

_LOCK_SHARE = 0.9
"""Share of a lock's deadline that the driver is given. It should give up first and leave the process running: a helper
that is killed in the middle of a lock leaves the process in an unknown state."""


class HelperClient:
    """`CudaProcesses` through the resident helper; safe for several threads."""

    def __init__(self, library_path: Path | None = None, log_format: LogFormat = LogFormat.OFF) -> None:
        """`library_path` is searched for libcuda first, by the helper only; `log_format` is that of the helper."""
        self._start = _Start(_environment(library_path), log_format)
        self._choosing = threading.Lock()
        self._helper: _Helper | None = None

    def start(self, deadline_s: float) -> None:
        """Wait until a helper is up.

        Raises:
            DriverError: CUDA_MISSING with what is missing; DEADLINE_EXCEEDED.
        """
        self._wait_until_up(Deadline.after("the start of the CUDA helper", deadline_s))

    def close(self) -> None:
        """Kill the helper; calls that wait for it fail with CUDA_FAILED."""
        with self._choosing:
            if self._helper is not None:
                self._helper.kill()
            self._helper = None

    @property
    def helper_pid(self) -> int | None:
        """PID of the helper, once it was started."""
        return None if self._helper is None else self._helper.pid

    def state(self, pid: int, deadline_s: float = STATE_DEADLINE_S) -> CudaState:
        """Return the CUDA state of a process."""
        return CudaState(self._request({"do": "state", "pid": pid}, deadline_s)["state"])

    def lock(self, pid: int, timeout_s: float) -> float:
        """Lock: running -> locked. Returns the seconds in the driver."""
        return self._act({"do": CudaAction.LOCK.value, "pid": pid, "timeout_s": timeout_s * _LOCK_SHARE}, timeout_s)

    def checkpoint(self, pid: int, deadline_s: float) -> float:
        """Checkpoint: locked -> checkpointed. Returns the seconds in the driver."""
        return self._act({"do": CudaAction.CHECKPOINT.value, "pid": pid}, deadline_s)

    def restore(self, pid: int, device_map: DeviceMap | None, deadline_s: float) -> float:
        """Restore: checkpointed -> locked. Returns the seconds in the driver."""
        pairs = None if device_map is None else dict(device_map)
        return self._act({"do": CudaAction.RESTORE.value, "pid": pid, "device_map": pairs}, deadline_s)

    def unlock(self, pid: int, deadline_s: float) -> float:
        """Unlock: locked -> running. Returns the seconds in the driver."""
        return self._act({"do": CudaAction.UNLOCK.value, "pid": pid}, deadline_s)

    def memory(self, deadline_s: float) -> MemoryReading:
        """Return the memory of GPUs and processes by NVML."""
        return wire.unpack_memory(self._request({"do": "memory"}, deadline_s)["memory"])

    def _act(self, request: Message, deadline_s: float) -> float:
        return float(self._request(request, deadline_s)["took_s"])

    def _request(self, request: Message, deadline_s: float) -> Message:
        what = request["do"] + (f" of process {request['pid']}" if "pid" in request else "")
        deadline = Deadline.after(f"CUDA {what}", deadline_s)
        helper = self._wait_until_up(deadline)
        try:
            answer = helper.request(request, deadline)
        except TimeoutError:
            self._retire(helper)
            raise DriverError(
                Reason.DEADLINE_EXCEEDED, f"{deadline.what} took longer than {deadline_s:.3g} s; its helper was ended"
            ) from None
        wire.raise_answered(answer)
        return answer

    def _wait_until_up(self, deadline: Deadline) -> _Helper:
        with self._choosing:
            if self._helper is None or self._helper.ended:
                self._helper = _Helper(self._start)
            helper = self._helper
        try:
            hello = helper.hello.result(deadline.left_s())
        except TimeoutError:
            if helper.overdue():  # else a later call may find it up; a short deadline must not restart it for ever
                self._retire(helper)
            raise DriverError(
                Reason.DEADLINE_EXCEEDED, f"{deadline.what}: no helper was up within {deadline.limit_s:.3g} s"
            ) from None
        wire.check_version(hello)
        wire.raise_answered(hello)
        return helper

    def _retire(self, helper: _Helper) -> None:
        with self._choosing:
            if self._helper is helper:
                self._helper = _Helper(self._start)
        helper.retire()


class _Start:
    """How a helper is started."""

    def __init__(self, environment: Mapping[str, str], log_format: LogFormat) -> None:
        self._environment, self._log_format = environment, log_format

    def spawn(self, connection: socket.socket) -> Child:
        fd = connection.fileno()
        argv = [sys.executable, "-P", "-m", "restore_driver.cuda.helper", str(fd), str(os.getpid()), self._log_format]
        return spawn(argv, self._environment, (fd,))


class _Helper:
    """One helper process, from its start to its end."""

    def __init__(self, start: _Start) -> None:
        self.hello: Future[Message] = Future()
        self.pid: int | None = None
        self.ended = False
        self._start_process = start
        self._ids = itertools.count(wire.HELLO + 1)
        self._waiting: dict[int, Future[Message]] = {wire.HELLO: self.hello}
        self._guard, self._writing = threading.Lock(), threading.Lock()
        self._retired = False
        self._up_by_s: float | None = None
        self._ours, self._theirs = socket.socketpair()
        threading.Thread(target=self._live, name="cuda-helper", daemon=True).start()

    def request(self, request: Message, deadline: Deadline) -> Message:
        """Send one request and wait for its answer.

        Raises:
            TimeoutError: no answer by the deadline.
            DriverError: CUDA_FAILED when the helper died meanwhile.
        """
        number, answer = next(self._ids), Future[Message]()
        with self._guard:
            self._waiting[number] = answer
            alive = not self.ended
        try:
            if not alive:
                raise _death("it ended")
            self._send({**request, "id": number, VERSION: wire.PROTOCOL_VERSION})
            return answer.result(deadline.left_s())
        except TimeoutError:
            raise
        except OSError as error:
            raise _death("it ended") from error
        finally:
            self._forget(number)

    def retire(self) -> None:
        """Take no more requests; the process is killed once no caller waits."""
        with self._guard:
            self._retired = True
        self._forget(None)

    def overdue(self) -> bool:
        """Return True when it should have been up by now."""
        return self._up_by_s is not None and time.monotonic() > self._up_by_s

    def kill(self) -> None:
        """Kill the whole process group now."""
        with self._guard:
            self._retired = True
            if self.pid is not None and not self.ended:
                kill_group(self.pid)

    def _send(self, message: Message) -> None:
        line = encode(message)
        with self._writing:
            self._ours.sendall(line)

    def _forget(self, number: int | None) -> None:
        with self._guard:
            if number is not None:
                self._waiting.pop(number, None)
            idle = self._retired and not self._waiting.keys() - {wire.HELLO}
        if idle:
            self.kill()

    def _live(self) -> None:
        """Run as the thread: start the process, distribute its answers, and reap it."""
        child = self._start()
        if child is None:
            return
        with suppress(OSError, DriverError):  # a helper that dies may leave anything behind
            self._distribute(MessageStream(self._ours, wire.LONGEST_LINE_BYTES))
        child.await_end()
        with self._guard:
            self.ended = True
        exit_code = child.reap()  # only now may another process have the PID
        self._end(_death(f"it ended with {exit_code}"))

    def _distribute(self, stream: MessageStream) -> None:
        while (message := stream.receive()) is not None:
            with self._guard:
                answer = self._waiting.pop(message.get("id", -1), None)
            if answer is not None:
                answer.set_result(message)

    def _end(self, error: DriverError) -> None:
        with self._guard:
            self.ended = True
            left = list(self._waiting.values())
            self._waiting.clear()
        self._ours.close()
        for answer in left:
            answer.set_exception(error)

    def _start(self) -> Child | None:
        self._up_by_s = time.monotonic() + START_S
        try:
            child = self._start_process.spawn(self._theirs)
        except OSError as error:
            self._end(_death(f"it cannot be started: {error}"))
            return None
        finally:
            self._theirs.close()
        with self._guard:
            self.pid = child.pid
            if self._retired:
                kill_group(child.pid)
        return child


def _death(how: str) -> DriverError:
    return DriverError(Reason.CUDA_FAILED, f"the CUDA helper is gone: {how}", "see its messages on standard error")


def _environment(library_path: Path | None) -> dict[str, str]:
    """Return our environment with this very package first on the path, and the libraries named."""
    paths = {"PYTHONPATH": Path(restore_driver.__file__).parents[1]}
    if library_path is not None:
        paths["LD_LIBRARY_PATH"] = library_path
    return {**os.environ, **{name: _first(path, os.environ.get(name)) for name, path in paths.items()}}


def _first(path: Path, others: str | None) -> str:
    return f"{path}:{others}" if others else str(path)
