"""The resident process that makes all CUDA calls: `python -m restore_driver.cuda.helper FD PARENT_PID LOG_FORMAT`.

One for all calls, since every process that makes one pays cuInit (tenths of a second); and a process of its own, since
a call may hang in the driver, where only a kill helps. Each request runs in a thread: the calls release the
interpreter's lock, restores of several processes run in parallel, and one that hangs delays no other. The main thread
makes no CUDA call, so that it always sees the end of the stream when the parent is gone, and ends.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from restore_driver.cuda import nvml, smi, wire
from restore_driver.cuda.driver_api import Api
from restore_driver.cuda.readings import MemoryReading
from restore_driver.cuda.states import CudaAction, Order, carry_out
from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Message, encode
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import VERSION, dump_error
from restore_driver.host.process import die_with_parent
from restore_driver.logs import LogFormat, Logger, open_log

_SMI_DEADLINE_S = 5.0


class Helper:
    """Answers requests that arrive on one socket."""

    def __init__(self, connection: socket.socket, log: Logger) -> None:
        self._connection, self._log = connection, log
        self._writing = threading.Lock()
        self._api: Api
        self._nvml: nvml.Nvml | None = None

    def serve(self) -> None:
        """Report whether the driver is up, then answer requests until the other side closes."""
        began_s = time.monotonic()
        try:
            self._api = Api()
            self._nvml = _open_nvml()
        except DriverError as error:
            self._log.warning("cuda_helper_not_started", **dump_error(error), took_s=time.monotonic() - began_s)
            self._hello(wire.answer_of(error), began_s)
            return
        version = self._api.version()
        self._log.info("cuda_helper_started", cuda_driver=version, took_s=time.monotonic() - began_s)
        self._hello({"driver": version}, began_s)
        stream = MessageStream(self._connection, wire.LONGEST_LINE_BYTES)
        while (request := stream.receive()) is not None:
            self._start(request)
        self._log.info("cuda_helper_stopped", took_s=time.monotonic() - began_s)

    def _hello(self, fields: Message, began_s: float) -> None:
        self._send({"id": wire.HELLO, VERSION: wire.PROTOCOL_VERSION, "took_s": time.monotonic() - began_s, **fields})

    def _start(self, request: Message) -> None:
        try:
            threading.Thread(target=self._answer, args=(request,), daemon=True).start()
        except RuntimeError as error:  # "can't start new thread": the next request may find one
            self._refuse(request, DriverError(Reason.CUDA_FAILED, f"CUDA helper: {error}"), 0.0)

    def _answer(self, request: Message) -> None:
        began_s = time.monotonic()
        try:
            answer = self._do(request)
        except DriverError as error:
            self._refuse(request, error, time.monotonic() - began_s)
        except Exception as error:  # noqa: BLE001 - a request must not go unanswered: its client would wait out the deadline
            failed = DriverError(Reason.INTERNAL, f"CUDA helper: {request.get('do')}: {error!r}")
            self._refuse(request, failed, time.monotonic() - began_s)
        else:
            self._send({"id": request.get("id"), "took_s": time.monotonic() - began_s, **answer})

    def _refuse(self, request: Message, error: DriverError, took_s: float) -> None:
        self._log.warning(
            "request_refused", do=request.get("do"), target_pid=request.get("pid"), **dump_error(error), took_s=took_s
        )
        self._send({"id": request.get("id"), "took_s": took_s, **wire.answer_of(error)})

    def _do(self, request: Message) -> Message:
        wire.check_version(request)
        if request["do"] == "memory":
            return {"memory": wire.pack_memory(self._memory())}
        if request["do"] == "state":
            return {"state": self._api.state(request["pid"]).value}
        order = Order(CudaAction(request["do"]), request["pid"], request.get("timeout_s"), request.get("device_map"))
        return {"state": carry_out(self._api, order).value}

    def _memory(self) -> MemoryReading:
        return smi.read_memory(_SMI_DEADLINE_S) if self._nvml is None else self._nvml.read()

    def _send(self, message: Message) -> None:
        line = encode(message)
        with self._writing:
            self._connection.sendall(line)


def _open_nvml() -> nvml.Nvml | None:
    """Return None where NVML cannot be loaded: nvidia-smi may have it on its own path."""
    try:
        return nvml.Nvml()
    except DriverError:
        return None


def main(fd: int, parent_pid: int, log_format: str) -> None:
    """Serve until the parent closes the socket, and die with it whatever a call may be waiting for."""
    die_with_parent()
    if os.getppid() != parent_pid:
        return  # it died before the line above
    Helper(socket.socket(fileno=fd), open_log("cuda-helper", LogFormat(log_format))).serve()
    os._exit(0)  # not sys.exit: a thread may be within the driver


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
