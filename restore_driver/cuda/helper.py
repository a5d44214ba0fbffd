"""The resident process that makes all CUDA calls: `python -m restore_driver.cuda.helper FD PARENT_PID`.

One for all calls, since every process that would make them pays cuInit (tenths of a second); and a process of its
own, since a call may hang in the driver, where only a kill helps. Each request runs in a thread: the calls release
the interpreter's lock, restores of several processes go side by side, and one that hangs holds up nobody. The main
thread makes no CUDA call, so that it always sees the end of file when the parent is gone, and ends.
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
from restore_driver.host.process import die_with_parent

_SMI_DEADLINE_S = 5.0


class Helper:
    """Answers requests that come over one socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._writing = threading.Lock()
        self._api: Api
        self._nvml: nvml.Nvml | None = None

    def serve(self) -> None:
        """Says whether it is up, then answers until the other side closes."""
        began_s = time.monotonic()
        try:
            self._api = Api()
            self._nvml = _open_nvml()
            hello: wire.Message = {"driver": self._api.version()}
        except DriverError as error:
            hello = {"error": wire.pack_error(error)}
        self._send({"id": wire.HELLO, "took_s": time.monotonic() - began_s, **hello})
        if "error" in hello:
            return
        for line in self._connection.makefile("rb"):
            threading.Thread(target=self._answer, args=(wire.from_line(line),), daemon=True).start()

    def _answer(self, request: wire.Message) -> None:
        began_s = time.monotonic()
        try:
            answer = self._do(request)
        except DriverError as error:
            answer = {"error": wire.pack_error(error)}
        except Exception as error:  # a request must not go unanswered: its asker would wait out the deadline
            failed = DriverError(Reason.INTERNAL, f"CUDA helper: {request['do']}: {error!r}")
            answer = {"error": wire.pack_error(failed)}
        self._send({"id": request["id"], "took_s": time.monotonic() - began_s, **answer})

    def _do(self, request: wire.Message) -> wire.Message:
        if request["do"] == "memory":
            return {"memory": wire.pack_memory(self._memory())}
        if request["do"] == "state":
            return {"state": self._api.state(request["pid"]).value}
        order = Order(CudaAction(request["do"]), request["pid"], request.get("timeout_s"), request.get("device_map"))
        return {"state": carry_out(self._api, order).value}

    def _memory(self) -> MemoryReading:
        return smi.read_memory(_SMI_DEADLINE_S) if self._nvml is None else self._nvml.read()

    def _send(self, message: wire.Message) -> None:
        with self._writing:
            self._connection.sendall(wire.to_line(message))


def _open_nvml() -> nvml.Nvml | None:
    """None where NVML is not there: nvidia-smi may have it on its own path."""
    try:
        return nvml.Nvml()
    except DriverError:
        return None


def main(fd: int, parent_pid: int) -> None:
    """Ends when `parent_pid` does, whatever a call may be waiting for."""
    die_with_parent()
    if os.getppid() != parent_pid:
        return  # it died before the line above
    Helper(socket.socket(fileno=fd)).serve()
    os._exit(0)  # not sys.exit: a thread may be within the driver


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
