"""Asking a holder: from the driver (load, release), from a replica (take, wait, done), from a person (preload)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.weights.protocol import receive, send
from restore_driver.weights.safetensors import Layout


class HolderClient:
    """One connection; leases that it began end with it unless they are done."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._socket: socket.socket | None = None
        self._buffered = bytearray()

    def preload(self, model: str, files: list[Path], layout: Layout, deadline_s: float) -> dict[str, Any]:
        """Has a model read into page-locked memory."""
        message = {
            "do": "preload",
            "model": model,
            "files": [str(file) for file in files],
            "total_bytes": layout.total_bytes,
            "offsets_bytes": dict(layout.offsets_bytes),
        }
        return self.ask(message, deadline_s)[0]

    def load(self, model: str, deadline_s: float, gpu: str | None = None) -> str:
        """Begins a copy to the card; returns its token. A holder of another card than `gpu` (its UUID) refuses."""
        return str(self.ask({"do": "load", "model": model, "gpu": gpu}, deadline_s)[0]["token"])

    def take(self, token: str, deadline_s: float) -> tuple[int, int]:
        """A descriptor of the device memory (the caller closes it) and its size in bytes."""
        answer, fd = self.ask({"do": "take", "token": token}, deadline_s)
        if fd is None:
            raise DriverError(Reason.WEIGHTS_FAILED, "the holder sent no descriptor")
        return fd, int(answer["size_bytes"])

    def wait(self, token: str, deadline_s: float) -> dict[str, Any]:
        """Returns when every byte is on the card, with what it took."""
        return self.ask({"do": "wait", "token": token}, deadline_s)[0]

    def done(self, token: str, deadline_s: float) -> None:
        """The memory is mapped: the holder lets go."""
        self.ask({"do": "done", "token": token}, deadline_s)

    def release(self, token: str, deadline_s: float) -> None:
        """Nobody will take it."""
        self.ask({"do": "release", "token": token}, deadline_s)

    def status(self, deadline_s: float = 10.0) -> dict[str, Any]:
        """Models, bytes, leases."""
        return self.ask({"do": "status"}, deadline_s)[0]

    def measure(self, deadline_s: float = 60.0) -> float:
        """The card's page-locked host-to-device rate in bytes per second."""
        return float(self.ask({"do": "measure"}, deadline_s)[0]["pinned_h2d_bytes_per_s"])

    def ask(self, message: Mapping[str, Any], deadline_s: float) -> tuple[dict[str, Any], int | None]:
        """One request.

        Raises:
            DriverError: what the holder refused; WEIGHTS_FAILED when it can't be asked; DEADLINE_EXCEEDED.
        """
        deadline = Deadline.after(f"the weights holder ({message['do']})", deadline_s)
        try:
            connection = self._connection(deadline)
            connection.settimeout(deadline.left_s())
            send(connection, dict(message))
            answer, fd = self._receive(connection)
        except TimeoutError:
            self.close()
            raise DriverError(
                Reason.DEADLINE_EXCEEDED, f"the weights holder at {self.path} did not answer within {deadline_s:.3g} s"
            ) from None
        except OSError as error:
            self.close()
            raise DriverError(Reason.WEIGHTS_FAILED, f"the weights holder at {self.path}: {error}") from error
        if answer is None:
            self.close()
            raise DriverError(Reason.WEIGHTS_FAILED, f"the weights holder at {self.path} ended")
        if "error" in answer:
            if fd is not None:
                os.close(fd)
            raise DriverError(Reason(answer["reason"]), answer["error"], answer.get("hint", ""))
        return answer, fd

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffered.clear()

    def _receive(self, connection: socket.socket) -> tuple[dict[str, Any] | None, int | None]:
        try:
            return receive(connection, self._buffered)
        except DriverError:  # whatever comes next would answer another question
            self.close()
            raise

    def _connection(self, deadline: Deadline) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(deadline.left_s())
            self._socket.connect(str(self.path))
        return self._socket
