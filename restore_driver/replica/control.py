"""The replica's side of quiesce and resume: a thread on a unix socket, a line of JSON each way.

    {"op": "quiesce"}   no step runs any more; weights and scratch leave the card; caches are emptied, workers ended
    {"op": "resume"}    + {"leases": {model: token}, "holder_socket": path}: memory is mapped again, steps go on
    {"op": "digest"}    the digest of the weights on the card
    {"op": "state"}     running, or quiet, and what is mapped

Each may bring {"deadline_s": seconds}. Answers are {"ok": true, ...timings} or {"ok": false, "detail": ...}. Both ways
may be repeated, also after one that failed half-way. A step that comes while the replica is quiet waits, however long
that is; it does not fail. A quiesce whose steps do not end in time changes nothing, and a resume calls off one that
still waits: whoever asked has given up by then, and nobody else would wake the replica.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from restore_driver.replica.ranges import ScratchRange, WeightsRange
from restore_driver.weights.client import HolderClient

_PATIENCE_S = 600.0
"""For whoever names no deadline."""
_PAUSE_S = 0.1
"""After a connection could not be accepted (no descriptors are left, say)."""


class ReplicaControl:
    """Owns the switch between running and quiet."""

    def __init__(
        self,
        path: str,
        *,
        weights: Mapping[str, WeightsRange] | None = None,
        scratch: Sequence[ScratchRange] = (),
        on_quiesce: Callable[[], None] = lambda: None,
        on_resume: Callable[[], None] = lambda: None,
        ordinal: int = 0,
    ) -> None:
        self.path, self.weights, self.scratch = path, dict(weights or {}), list(scratch)
        self.on_quiesce, self.on_resume, self.ordinal = on_quiesce, on_resume, ordinal
        self._steps = threading.Condition()
        self._running, self._quiet, self._called_off = 0, False, False
        self._moving = threading.Lock()
        """Held by whoever maps, unmaps or reads the ranges."""
        self._ending_workers = threading.Thread(target=end_compile_workers, name="replica-workers", daemon=True)

    def start(self) -> None:
        """Begins to listen, in a thread of its own; all is compiled by now, so the compile workers end meanwhile.

        Ending them takes seconds, which would else be part of the first checkpoint's pause.
        """
        self._ending_workers.start()
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(self.path)
        finally:
            os.umask(before)
        listener.listen(4)
        threading.Thread(target=self._listen, args=(listener,), name="replica-control", daemon=True).start()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around each use of the card; waits while the replica is quiet."""
        with self._steps:
            self._steps.wait_for(lambda: not self._quiet)
            self._running += 1
        try:
            yield
        finally:
            with self._steps:
                self._running -= 1
                self._steps.notify_all()

    def quiesce(self, deadline_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Brings the replica to rest; what took how long, in seconds.

        Raises:
            TimeoutError: compile workers or a step did not end in time, or a resume called it off; nothing was touched.
        """
        import torch

        times, ends_s = _Times(), time.monotonic() + deadline_s
        with self._alone(ends_s):
            if self._ending_workers.is_alive():  # steps go on meanwhile; a worker must not end under a dump
                self._ending_workers.join(max(0.0, ends_s - time.monotonic()))
                if self._ending_workers.is_alive():
                    raise TimeoutError("the compile workers did not end in time")
            times.lap("workers_s")
            self._drain(ends_s)
            self._enter()
            self.on_quiesce()
            torch.cuda.synchronize(self.ordinal)
            times.lap("drain_s")
            freed = 0
            for piece in self._ranges():
                freed += piece.size_bytes if piece.mapped else 0
                piece.unmap()
            times.lap("unmap_s")
            _empty_caches()
            times.lap("caches_s")
        return {**times.laps, "released_bytes": freed}

    def resume(self, leases: Mapping[str, str], holder: str | None, deadline_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Maps everything again and lets the steps go on."""
        times = _Times()
        with self._steps:
            self._called_off = True
            self._steps.notify_all()
        with self._alone(time.monotonic() + deadline_s):
            self._enter()
            for scratch in self.scratch:
                if not scratch.range.mapped:
                    scratch.range.map_own()
            times.lap("scratch_s")
            facts = {}
            for name, weights in self.weights.items():
                if not weights.range.mapped:
                    facts[name] = self._take(weights, name, leases, holder)
            times.lap("weights_s")
            self.on_resume()
            with self._steps:
                self._quiet = False
                self._steps.notify_all()
        return {**times.laps, **({"weights": facts} if facts else {})}

    def digest(self, deadline_s: float = _PATIENCE_S) -> str:
        """Of all weights together.

        Raises:
            RuntimeError: some are not on the card now; reading there would cost the replica its context.
        """
        with self._alone(time.monotonic() + deadline_s):
            gone = [name for name, weights in self.weights.items() if not weights.range.mapped]
            if gone:
                raise RuntimeError(f"the weights of {gone[0]} are not on the card")
            self._enter()
            return ".".join(weights.digest() for weights in self.weights.values())

    @contextmanager
    def _alone(self, ends_s: float) -> Iterator[None]:
        if not self._moving.acquire(timeout=max(0.0, ends_s - time.monotonic())):
            raise TimeoutError("another request is at work on this replica")
        try:
            yield
        finally:
            self._moving.release()

    def _drain(self, ends_s: float) -> None:
        """New steps wait from here on, and those that run end; or all is as before."""
        with self._steps:
            was_quiet, self._quiet, self._called_off = self._quiet, True, False
            drained = self._steps.wait_for(
                lambda: self._running == 0 or self._called_off, max(0.0, ends_s - time.monotonic())
            )
            if not drained or self._running:
                self._quiet = was_quiet
                self._steps.notify_all()
                raise TimeoutError(
                    "it was called off by a resume" if self._called_off else "a step did not end in time"
                )

    def _take(self, weights: WeightsRange, name: str, leases: Mapping[str, str], holder: str | None) -> dict[str, Any]:
        """Mapped while the holder still copies; waited for after. Half a model is none: it is unmapped again."""
        if name not in leases or holder is None:
            raise RuntimeError(f"the weights of {name} are gone and no holder was named")
        times = _Times()
        client = HolderClient(holder)
        try:
            fd, size = client.take(leases[name], 30.0)
            if size != weights.range.size_bytes:
                os.close(fd)
                raise RuntimeError(f"the holder's {name} has {size:,} bytes, the range {weights.range.size_bytes:,}")
            times.lap("take_s")
            weights.range.map_imported(fd)
            times.lap("map_s")
            facts = client.wait(leases[name], 30.0)
            times.lap("wait_s")
            client.done(leases[name], 30.0)
        except BaseException:
            weights.range.unmap()
            raise
        finally:
            client.close()
        return {**facts, **times.laps}

    def _ranges(self) -> Iterator[Any]:
        yield from (weights.range for weights in self.weights.values())
        yield from (scratch.range for scratch in self.scratch)

    def _enter(self) -> None:
        """The device's context is current per thread."""
        import torch

        torch.cuda.set_device(self.ordinal)

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                time.sleep(_PAUSE_S)
                continue
            threading.Thread(target=self._converse, args=(connection,), name="replica-asker", daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall((json.dumps(self._answer(connection, line)) + "\n").encode())

    def _answer(self, connection: socket.socket, line: bytes) -> dict[str, Any]:
        try:
            if _peer(connection) not in (0, os.geteuid()):
                raise PermissionError("only root and my own user may ask")
            message = json.loads(line)
            deadline_s = float(message.get("deadline_s", _PATIENCE_S))
            match message.get("op"):
                case "quiesce":
                    return {"ok": True, **self.quiesce(deadline_s)}
                case "resume":
                    leases, holder = message.get("leases", {}), message.get("holder_socket")
                    return {"ok": True, **self.resume(leases, holder, deadline_s)}
                case "digest":
                    return {"ok": True, "digest": self.digest(deadline_s)}
                case "state":
                    mapped = [piece.mapped for piece in self._ranges()]
                    return {"ok": True, "quiet": self._quiet, "mapped": mapped}
                case other:
                    raise ValueError(f"there is no op {other!r}")
        except Exception as error:  # told to whoever asked; the replica lives on
            return {"ok": False, "detail": f"{type(error).__name__}: {error}"}


class _Times:
    """Laps of a stopwatch."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._at = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._at
        self._at = now


def _empty_caches() -> None:
    """What needs not be in an image: torch's caches on card and host, compile workers, malloc's free lists."""
    import torch

    end_compile_workers()
    gc.collect()
    torch.cuda.empty_cache()
    for name in ("_host_emptyCache", "_accelerator_emptyHostCache"):
        empty = getattr(torch._C, name, None)
        if empty is not None:
            empty()
            break
    ctypes.CDLL(None).malloc_trim(0)


def end_compile_workers() -> None:
    """Inductor's worker processes: they would be dumped with the replica, and are not needed once all is compiled."""
    with suppress(ImportError, AttributeError):
        from torch._inductor import async_compile

        async_compile.shutdown_compile_workers()


def _peer(connection: socket.socket) -> int:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", packed)[1])
