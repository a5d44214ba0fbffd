"""Client of the weights holder: for the driver (load, release), a replica (take, wait, done), a person (preload).

A replica's own process imports this module: standard library only (`host/jsonlines.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import VERSION, raise_error
from restore_driver.host.unix_sockets import connect
from restore_driver.weights.protocol import LONGEST_LINE_BYTES, PROTOCOL_VERSION
from restore_driver.weights.safetensors import Layout


class HolderClient:
    """One connection to a holder; leases that it began end with it unless they are done. For one thread at a time.

    All methods raise DriverError: the holder's own, WEIGHTS_FAILED when it cannot be reached or ends,
    DEADLINE_EXCEEDED.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._stream: MessageStream | None = None

    def preload(self, model: str, files: list[Path], layout: Layout, deadline_s: float) -> dict[str, Any]:
        """Have a model read into page-locked memory; returns `held_bytes`, `was_held`, `read_s` and `pin_s`."""
        message = {
            "do": "preload",
            "model": model,
            "files": [str(file) for file in files],
            "total_bytes": layout.total_bytes,
            "offsets_bytes": dict(layout.offsets_bytes),
        }
        return self.ask(message, deadline_s)

    def load(self, model: str, deadline_s: float, gpu: str | None = None) -> str:
        """Begin a copy to the GPU and return its token. A holder of another GPU than `gpu` (its UUID) refuses."""
        return str(self.ask({"do": "load", "model": model, "gpu": gpu}, deadline_s)["token"])

    def take(self, token: str, deadline_s: float) -> tuple[int, int]:
        """Return a descriptor of the device memory (the caller closes it) and its size in bytes."""
        answer, fd = self._exchange({"do": "take", "token": token}, deadline_s)
        if fd is None:
            raise DriverError(Reason.WEIGHTS_FAILED, "the holder sent no descriptor")
        return fd, int(answer["size_bytes"])

    def wait(self, token: str, deadline_s: float) -> dict[str, Any]:
        """Return the copy's timings once every byte is on the GPU."""
        return self.ask({"do": "wait", "token": token}, deadline_s)

    def done(self, token: str, deadline_s: float) -> None:
        """Report that the memory is mapped: the holder releases its reference."""
        self.ask({"do": "done", "token": token}, deadline_s)

    def release(self, token: str, deadline_s: float) -> None:
        """End a lease that no replica will take."""
        self.ask({"do": "release", "token": token}, deadline_s)

    def status(self, deadline_s: float = 10.0) -> dict[str, Any]:
        """Return models, bytes and leases, as `Holder` reports them."""
        return self.ask({"do": "status"}, deadline_s)

    def measure(self, deadline_s: float = 60.0) -> float:
        """Return the GPU's page-locked host-to-device rate in bytes per second."""
        return float(self.ask({"do": "measure"}, deadline_s)["pinned_h2d_bytes_per_s"])

    def ask(self, message: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """Send one request and return its answer; a descriptor that comes with it is closed."""
        answer, fd = self._exchange(message, deadline_s)
        if fd is not None:
            os.close(fd)
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream.connection.close()
        self._stream = None

    def _exchange(self, message: Mapping[str, Any], deadline_s: float) -> tuple[dict[str, Any], int | None]:
        deadline = Deadline.after(f"the weights holder ({message['do']})", deadline_s)
        answered = False
        try:
            stream = self._connected(deadline)
            with suppress(BrokenPipeError):  # it refused the connection: its answer is there to be read
                stream.send({**message, VERSION: PROTOCOL_VERSION})
            answer, fd = stream.receive_with_descriptor(deadline.left_s())
            answered = answer is not None
        except TimeoutError:
            raise DriverError(
                Reason.DEADLINE_EXCEEDED, f"the weights holder at {self.path} did not answer within {deadline_s:.3g} s"
            ) from None
        except OSError as error:
            raise DriverError(Reason.WEIGHTS_FAILED, f"the weights holder at {self.path}: {error}") from error
        finally:
            if not answered:  # whatever arrives next would answer another request
                self.close()
        if answer is None:
            raise DriverError(Reason.WEIGHTS_FAILED, f"the weights holder at {self.path} ended")
        try:
            raise_error(answer)
        except DriverError:
            if fd is not None:
                os.close(fd)
            raise
        return answer, fd

    def _connected(self, deadline: Deadline) -> MessageStream:
        if self._stream is None:
            self._stream = MessageStream(connect(self.path, deadline.left_s()), LONGEST_LINE_BYTES)
        self._stream.connection.settimeout(deadline.left_s())
        return self._stream
