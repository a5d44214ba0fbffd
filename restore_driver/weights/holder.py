"""The holder as a server: requests of the driver and of replicas to one store of models and one GPU.

It serves root, and its own user, within its own pid and user namespace: agent and command line must be there, too (on
Kubernetes: hostPID). Replicas connect from anywhere, each with the token of a lease.

Leases that a connection began and no replica finished end with that connection. With a state file, the models that are
held are listed there, and a holder that starts after another's death reads them again. A holder's death harms no
running replica: device memory that was mapped belongs to the process that mapped it.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Message
from restore_driver.host.meminfo import available_memory_bytes
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import dump_error, error_message
from restore_driver.host.resident_server import MOST_CONNECTIONS, ResidentServer
from restore_driver.host.trusted import require_trusted
from restore_driver.host.unix_sockets import has_hung_up, is_same_machine_root, listen, peer
from restore_driver.logs import SILENT, Logger
from restore_driver.weights.device import NO_GPU, Device, measure_pinned_rate
from restore_driver.weights.leases import Lease, Leases
from restore_driver.weights.model_list import read_models, write_models
from restore_driver.weights.protocol import (
    FOR_REPLICAS,
    LONGEST_LINE_BYTES,
    check_version,
    size,
    sizes,
    text,
    texts,
)
from restore_driver.weights.safetensors import Layout
from restore_driver.weights.store import Store

_MOST_REPLICAS = MOST_CONNECTIONS // 2
"""Connections of clients that need a token: the socket is open to all users, and they must leave some to root."""
_REPLICA_IDLE_S = 60.0
"""Between the requests of a client that needs a token; a replica maps memory in between, milliseconds."""
_REQUEST_S = 30.0
"""For a whole request, from its first byte on, and for a client to take each answer."""

Handler = Callable[[Message, set[str]], Message]
"""Answers one request; the set has the tokens of the leases that its connection began."""


class Holder:
    """Serves one store on one socket."""

    def __init__(  # noqa: PLR0913 - its device, its limits and where it is reached
        self,
        device: Device,
        path: Path,
        budget_bytes: int,
        *,
        state: Path | None,
        huge_pages: bool,
        log: Logger = SILENT,
    ) -> None:
        self.device, self.path, self.state, self._log = device, path, state, log
        self.store = Store(device, budget_bytes, huge_pages)
        self.leases = Leases(device, self.store, on_copied=self._log_copy)
        self._writing = threading.Lock()
        self._replicas = threading.Semaphore(_MOST_REPLICAS)
        self._server: ResidentServer | None = None
        self._stopping = False
        self._handlers: dict[str, Handler] = {
            "preload": self._answer_preload,
            "load": self._answer_load,
            "done": self._answer_release,
            "release": self._answer_release,
            "drop": self._answer_drop,
            "measure": lambda message, begun: {"pinned_h2d_bytes_per_s": measure_pinned_rate(self.device)},
            "status": lambda message, begun: self._status(),
        }

    def reload(self) -> list[str]:
        """Read the models of the state file again; return why each model that is left out could not be had."""
        failed: list[str] = []
        if self.state is None or not self.state.exists():
            return failed
        try:
            for about in read_models(self.state):
                try:
                    self._preload(about)
                except (DriverError, OSError) as error:
                    failed.append(str(error))
        except ValueError as error:
            failed.append(f"{self.state} is no list of models: {error}")
        return failed

    def serve(self, ready: Callable[[], None]) -> None:
        """Listen and answer until `stop`.

        Raises:
            DriverError: NOT_TRUSTED for the socket's directory.
        """
        require_trusted(self.path.parent, owner=os.geteuid())
        # Replicas of other users come with a token; the socket's directory keeps other processes out.
        self._server = ResidentServer(listen(self.path, 0o666), self._converse, "holder-client")
        began_s = time.monotonic()
        models = len(self.store.models)
        self._log.info("holder_started", socket=str(self.path), gpu=self.device.uuid(), models=models)
        ready()
        if self._stopping:  # before there was a server to stop
            self._server.stop()
        self._server.run(drain=False)
        self._log.info("holder_stopped", took_s=time.monotonic() - began_s)

    def stop(self) -> None:
        """Accept no new connections and let `serve` return; may be called from a signal handler."""
        self._stopping = True
        if self._server is not None:
            self._server.stop()

    def _converse(self, connection: socket.socket) -> None:
        stream = MessageStream(connection, LONGEST_LINE_BYTES)
        connection.settimeout(_REQUEST_S)
        try:
            if _is_trusted(connection):
                self._converse_with(stream, trusted=True)
            else:
                self._converse_with_replica(stream)
        except DriverError as error:
            self._log_refusal(stream, None, error)
            stream.send(error_message(error))

    def _converse_with_replica(self, stream: MessageStream) -> None:
        if not self._replicas.acquire(blocking=False):
            raise DriverError(Reason.BUSY, f"{_MOST_REPLICAS} replicas are connected", "try again")
        try:
            self._converse_with(stream, trusted=False)
        finally:
            self._replicas.release()

    def _converse_with(self, stream: MessageStream, *, trusted: bool) -> None:
        """Answer a connection's requests until it closes; then end the leases that it began."""
        begun: set[str] = set()
        with suppress(TimeoutError):  # a client that sends half a request, or holds a slot idle
            try:
                while (message := self._next(stream, trusted=trusted)) is not None:
                    self._answer(stream, message, begun, trusted=trusted)
            finally:
                self._end(begun)

    @staticmethod
    def _next(stream: MessageStream, *, trusted: bool) -> Message | None:
        """Receive a request; a trusted client holds leases and may be idle for as long as a restore takes."""
        return stream.receive(_REQUEST_S, first_byte_s=math.inf if trusted else _REPLICA_IDLE_S)

    def _end(self, begun: set[str]) -> None:
        """End leases without waiting for copies that still run: their client has disconnected."""
        with ExitStack() as cleanup:  # run every release even if one raises
            for token in begun:
                cleanup.callback(self.leases.release, token, patience_s=0.0)

    def _answer(self, stream: MessageStream, message: Message, begun: set[str], *, trusted: bool) -> None:
        what = str(message.get("do"))
        try:
            check_version(message)
            self._refuse_stranger(what, trusted=trusted)
            if what == "take":
                self._send_memory(stream, text(message, "token"))
                return
            answer = self._carry_out(stream, what, message, begun)
        except DriverError as error:
            answer = self._refused(stream, what, error)
        except Exception as error:  # noqa: BLE001 - no memory, no thread, no file: the next request is served
            said = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            answer = self._refused(stream, what, DriverError(Reason.WEIGHTS_FAILED, f"{what}: {said}"))
        stream.send(answer)

    def _carry_out(self, stream: MessageStream, what: str, message: Message, begun: set[str]) -> Message:
        if what == "wait":
            return self.leases.wait(text(message, "token"), lambda: has_hung_up(stream.connection)).timings()
        if what not in self._handlers:
            raise DriverError(Reason.REQUEST_INVALID, f"there is no request {what!r:.100}")
        return self._handlers[what](message, begun)

    def _send_memory(self, stream: MessageStream, token: str) -> None:
        fd, size_bytes = self.leases.export(token, lambda: has_hung_up(stream.connection))
        try:
            stream.send({"size_bytes": size_bytes}, fd)
        finally:
            os.close(fd)

    @staticmethod
    def _refuse_stranger(what: str, *, trusted: bool) -> None:
        if not trusted and what not in FOR_REPLICAS:
            raise DriverError(
                Reason.NOT_TRUSTED,
                f"{what} is for root alone",
                "ask as root, from the holder's own pid and user namespace (on Kubernetes: hostPID)",
            )

    def _answer_load(self, message: Message, begun: set[str]) -> Message:
        self._refuse_other_gpu(None if message.get("gpu") is None else text(message, "gpu"))
        lease = self.leases.load(text(message, "model"))
        begun.add(lease.token)
        return {"token": lease.token, "gpu": self.device.uuid()}

    def _answer_release(self, message: Message, begun: set[str]) -> Message:
        token = text(message, "token")
        begun.discard(token)
        self.leases.release(token)
        return {}

    def _answer_preload(self, message: Message, begun: set[str]) -> Message:
        answer = self._preload(message)
        self._write_state()
        self._log.info("model_preloaded", model=message["model"], **answer)
        return answer

    def _answer_drop(self, message: Message, begun: set[str]) -> Message:
        self.store.drop(text(message, "model"))
        self._write_state()
        self._log.info("model_dropped", model=message["model"])
        return {}

    def _refuse_other_gpu(self, wanted: str | None) -> None:
        own = self.device.uuid()
        if wanted is not None and own not in (None, NO_GPU) and wanted != own:
            raise DriverError(
                Reason.WEIGHTS_FAILED,
                f"the replica is on GPU {wanted}, this holder's GPU is {own}",
                "name the socket of the holder of that GPU",
            )

    def _preload(self, about: Message) -> Message:
        name, files = text(about, "model"), tuple(Path(file) for file in texts(about, "files"))
        layout = Layout(size(about, "total_bytes"), sizes(about, "offsets_bytes"))
        before = self.store.models.get(name)
        model = self.store.preload(name, files, layout, available_memory_bytes())
        held = {"held_bytes": len(model.buffer), "was_held": model is before}
        return {**held, "read_s": model.read_s, "pin_s": model.pin_s}

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "budget_bytes": self.store.budget_bytes,
            "held_bytes": self.store.held_bytes,
            "free_device_bytes": self.device.free_bytes(),
            "gpu": self.device.uuid(),
            "models": {model.name: len(model.buffer) for model in self.store.held()},
            "leases": len(self.leases.leases),
        }

    def _write_state(self) -> None:
        if self.state is not None:
            with self._writing:
                write_models(self.state, self.store.held())

    def _refused(self, stream: MessageStream, what: str, error: DriverError) -> Message:
        self._log_refusal(stream, what, error)
        return error_message(error)

    def _log_refusal(self, stream: MessageStream, what: str | None, error: DriverError) -> None:
        pid, user_id = peer(stream.connection)
        self._log.warning("request_refused", do=what, **dump_error(error), client_pid=pid, client_user_id=user_id)

    def _log_copy(self, lease: Lease) -> None:
        about = {"model": lease.model.name, **lease.timings()}
        if lease.failure is None:
            self._log.info("weights_copied", **about)
        else:
            self._log.warning("weights_copy_failed", **about, **dump_error(lease.failure))


def _is_trusted(connection: socket.socket) -> bool:
    """Return True for root and the holder's own user, of its own pid and user namespace.

    Raises:
        DriverError: BUSY while no descriptor is left to check that with.
    """
    try:
        return is_same_machine_root(connection)
    except OSError as error:
        raise DriverError(Reason.BUSY, f"the client cannot be identified: {error}", "try again") from error
