"""The agent's side of the helper: starts it, asks it, kills it when it hangs.

A `_Helper` is one process and one thread of ours. That thread starts the process and reads its answers: the kernel
ties the helper's life (`PR_SET_PDEATHSIG`) to the *thread* that started it, and this one lives as long. Askers wait
for their own answer with their own deadline, so that several can wait at once.

On a miss the helper is retired: it takes no more requests, a fresh one starts at once (its cuInit runs beside
whatever the caller does next), and the old one's process group is killed as soon as nobody else waits for it.
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
from restore_driver.host.process import kill_group
from restore_driver.host.spawn import Child, spawn

START_S = 30.0
"""For a helper to be up: cuInit takes tenths of a second with persistence mode, and seconds a card without."""

_LOCK_SHARE = 0.9
"""Of a lock's time, what the driver is given: it should give up first, and leave the process running, since a helper
that is killed in the middle of a lock leaves the process in a state that nobody has told us."""


class HelperClient:
    """`CudaProcesses` through the resident helper; all threads may use it."""

    def __init__(self, library_path: Path | None = None) -> None:
        """`library_path` is searched for libcuda first, by the helper only."""
        self._environment = _environment(library_path)
        self._choosing = threading.Lock()
        self._helper: _Helper | None = None

    def start(self, deadline_s: float) -> None:
        """Waits until a helper is up.

        Raises:
            DriverError: CUDA_MISSING with what is missing; DEADLINE_EXCEEDED.
        """
        self._wait_until_up(Deadline.after("the start of the CUDA helper", deadline_s))

    def close(self) -> None:
        """Kills the helper; those who wait for it are told."""
        with self._choosing:
            if self._helper is not None:
                self._helper.kill()
            self._helper = None

    @property
    def helper_pid(self) -> int | None:
        """The helper's PID, once it was started."""
        return None if self._helper is None else self._helper.pid

    def state(self, pid: int, deadline_s: float = STATE_DEADLINE_S) -> CudaState:
        """What the driver says of a process."""
        return CudaState(self._ask({"do": "state", "pid": pid}, deadline_s)["state"])

    def lock(self, pid: int, timeout_s: float) -> float:
        """Running -> locked."""
        return self._act({"do": CudaAction.LOCK.value, "pid": pid, "timeout_s": timeout_s * _LOCK_SHARE}, timeout_s)

    def checkpoint(self, pid: int, deadline_s: float) -> float:
        """Locked -> checkpointed."""
        return self._act({"do": CudaAction.CHECKPOINT.value, "pid": pid}, deadline_s)

    def restore(self, pid: int, device_map: DeviceMap | None, deadline_s: float) -> float:
        """Checkpointed -> locked."""
        pairs = None if device_map is None else dict(device_map)
        return self._act({"do": CudaAction.RESTORE.value, "pid": pid, "device_map": pairs}, deadline_s)

    def unlock(self, pid: int, deadline_s: float) -> float:
        """Locked -> running."""
        return self._act({"do": CudaAction.UNLOCK.value, "pid": pid}, deadline_s)

    def memory(self, deadline_s: float) -> MemoryReading:
        """Cards and processes by NVML."""
        return wire.unpack_memory(self._ask({"do": "memory"}, deadline_s)["memory"])

    def _act(self, request: wire.Message, deadline_s: float) -> float:
        return float(self._ask(request, deadline_s)["took_s"])

    def _ask(self, request: wire.Message, deadline_s: float) -> wire.Message:
        what = request["do"] + (f" of process {request['pid']}" if "pid" in request else "")
        deadline = Deadline.after(f"CUDA {what}", deadline_s)
        helper = self._wait_until_up(deadline)
        try:
            answer = helper.ask(request, deadline)
        except TimeoutError:
            self._retire(helper)
            raise DriverError(
                Reason.DEADLINE_EXCEEDED, f"{deadline.what} took longer than {deadline_s:.3g} s; its helper was ended"
            ) from None
        if "error" in answer:
            raise wire.unpack_error(answer["error"])
        return answer

    def _wait_until_up(self, deadline: Deadline) -> _Helper:
        with self._choosing:
            if self._helper is None or self._helper.ended:
                self._helper = _Helper(self._environment)
            helper = self._helper
        try:
            hello = helper.hello.result(deadline.left_s())
        except TimeoutError:
            if helper.overdue():  # else the next asker may find it up; a short deadline must not start it over for ever
                self._retire(helper)
            raise DriverError(
                Reason.DEADLINE_EXCEEDED, f"{deadline.what}: no helper was up within {deadline.limit_s:.3g} s"
            ) from None
        if "error" in hello:
            raise wire.unpack_error(hello["error"])
        return helper

    def _retire(self, helper: _Helper) -> None:
        with self._choosing:
            if self._helper is helper:
                self._helper = _Helper(self._environment)
        helper.retire()


class _Helper:
    """One helper process, from its start to its end."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.hello: Future[wire.Message] = Future()
        self.pid: int | None = None
        self.ended = False
        self._environment = environment
        self._ids = itertools.count(wire.HELLO + 1)
        self._waiting: dict[int, Future[wire.Message]] = {wire.HELLO: self.hello}
        self._guard = threading.Lock()
        self._retired = False
        self._up_by_s: float | None = None
        self._ours, self._theirs = socket.socketpair()
        threading.Thread(target=self._live, name="cuda-helper", daemon=True).start()

    def ask(self, request: wire.Message, deadline: Deadline) -> wire.Message:
        """Sends one request and waits for its answer.

        Raises:
            TimeoutError: no answer by the deadline.
            DriverError: CUDA_FAILED when the helper died meanwhile.
        """
        number, answer = next(self._ids), Future[wire.Message]()
        with self._guard:
            self._waiting[number] = answer
            alive = not self.ended
        try:
            if alive:
                self._ours.sendall(wire.to_line({**request, "id": number}))
            return answer.result(deadline.left_s()) if alive else self._died(None)
        except TimeoutError:
            raise
        except OSError as error:
            return self._died(error)
        finally:
            self._forget(number)

    def retire(self) -> None:
        """No more requests; the end comes once nobody waits."""
        with self._guard:
            self._retired = True
        self._forget(None)

    def overdue(self) -> bool:
        """True when it should have been up by now."""
        return self._up_by_s is not None and time.monotonic() > self._up_by_s

    def kill(self) -> None:
        """The whole process group, now."""
        with self._guard:
            self._retired = True
            if self.pid is not None and not self.ended:
                kill_group(self.pid)

    def _forget(self, number: int | None) -> None:
        with self._guard:
            if number is not None:
                self._waiting.pop(number, None)
            idle = self._retired and not self._waiting.keys() - {wire.HELLO}
        if idle:
            self.kill()

    def _live(self) -> None:
        """The thread: starts the process, hands out answers, and buries it."""
        child = self._start()
        if child is None:
            return
        with suppress(OSError, ValueError):  # a helper that dies may leave half a line
            for line in self._ours.makefile("rb"):
                message = wire.from_line(line)
                with self._guard:
                    answer = self._waiting.pop(message["id"], None)
                if answer is not None:
                    answer.set_result(message)
        child.await_end()
        with self._guard:
            self.ended = True
        exit_code = child.reap()  # only now may another process have the PID
        self._end(_death(f"it ended with {exit_code}"))

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
        command = [sys.executable, "-P", "-m", "restore_driver.cuda.helper", str(self._theirs.fileno())]
        try:
            child = spawn([*command, str(os.getpid())], self._environment, (self._theirs.fileno(),))
        except OSError as error:
            self._end(_death(f"it can't be started: {error}"))
            return None
        finally:
            self._theirs.close()
        with self._guard:
            self.pid = child.pid
            if self._retired:
                kill_group(child.pid)
        return child

    def _died(self, error: OSError | None) -> wire.Message:
        raise _death("it ended") from error


def _death(how: str) -> DriverError:
    return DriverError(Reason.CUDA_FAILED, f"the CUDA helper is gone: {how}", "see its messages on standard error")


def _environment(library_path: Path | None) -> dict[str, str]:
    """Ours, with this very package first on the path, and the libraries named."""
    paths = {"PYTHONPATH": Path(restore_driver.__file__).parents[1]}
    if library_path is not None:
        paths["LD_LIBRARY_PATH"] = library_path
    return {**os.environ, **{name: _first(path, os.environ.get(name)) for name, path in paths.items()}}


def _first(path: Path, others: str | None) -> str:
    return f"{path}:{others}" if others else str(path)
