"""Quiesce and resume a replica from within its process, requested over a unix socket (`protocol.py`).

Quiesce and resume may be repeated, also after one that failed half-way. A step that begins while the replica is
quiesced waits, however long that is; it does not fail.

Everything slow comes before the first range is unmapped: until then a quiesce that is late, or fails, leaves a replica
that runs as before. A resume cancels every quiesce that was requested before it: the client of that quiesce has given
up by then, and no other would resume the replica.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host.buffers import trim_heap
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import error_message
from restore_driver.host.resident_server import ResidentServer
from restore_driver.host.unix_sockets import is_root_or_us, listen
from restore_driver.replica.protocol import FAILED, LONGEST_LINE_BYTES, check_version
from restore_driver.replica.ranges import ScratchRange, WeightsRange
from restore_driver.replica.stacks import Stacks
from restore_driver.replica.vmm import VmmError
from restore_driver.weights.client import HolderClient

_PATIENCE_S = 600.0
"""Deadline of a request that names none."""
_REQUEST_S = 30.0
"""For a client to send a request, and to take its answer."""
_MOST_CLIENTS = 16


class ReplicaControl:
    """Switches a replica between running and quiesced; safe for several threads."""

    def __init__(  # noqa: PLR0913 - an engine names those that it needs
        self,
        path: str,
        *,
        weights: Mapping[str, WeightsRange] | None = None,
        scratch: Sequence[ScratchRange] = (),
        on_quiesce: Callable[[], None] = lambda: None,
        on_resume: Callable[[], None] = lambda: None,
        ordinal: int = 0,
    ) -> None:
        """Prepare; `start` begins to listen.

        Args:
            path: socket, of mode 0600.
            weights: ranges of weights by model; their content comes back from a weights holder.
            scratch: ranges whose content need not survive.
            on_quiesce: called when no step runs any more; may be called repeatedly.
            on_resume: called before steps go on, and only after `on_quiesce`, though that may have failed half-way.
            ordinal: GPU that is current for the engine's threads.
        """
        self.path, self.weights, self.scratch = path, dict(weights or {}), list(scratch)
        self.on_quiesce, self.on_resume, self.ordinal = on_quiesce, on_resume, ordinal
        self._steps = threading.Condition()
        self._running, self._quiet, self._workers_end = 0, False, False
        self._resumes = 0
        """Number of resumes that were requested."""
        self._moving = threading.Lock()
        """Held while ranges are mapped, unmapped or read."""
        self._on_quiesce_called = False
        """True between `on_quiesce` and `on_resume`."""
        self._stacks = Stacks()
        self._torn: set[str] = set()
        """Models that are mapped, but perhaps incomplete."""

    def start(self) -> None:
        """Begin to listen, in a thread of its own, and end torch's compile workers meanwhile.

        Everything is compiled by now. Ending them takes seconds, which would be part of the first checkpoint's pause.

        Raises:
            OSError: the socket cannot be bound.
        """
        self._start_ending_workers()
        server = ResidentServer(listen(self.path), self._converse, "replica-client", _MOST_CLIENTS)
        threading.Thread(target=server.run, kwargs={"drain": False}, name="replica-control", daemon=True).start()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Enclose each use of the GPU; waits while the replica is quiesced."""
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
        """Let running steps end and release the GPU memory; returns seconds by part and `released_bytes`.

        Raises:
            TimeoutError: workers, steps or the GPU did not finish in time, or a resume cancelled it; the replica runs
                as before.
        """
        times, freed = _Times(), 0
        with self._steps:
            wanted = _Wanted(time.monotonic() + deadline_s, self._resumes)
        with self._alone(wanted.ends_s):
            self._end_workers(wanted)  # steps go on meanwhile
            times.lap("workers_s")
            with self._steps:
                was_quiet, self._quiet = self._quiet, True
            try:
                self._drain(wanted, times)
            except BaseException:
                if not was_quiet:
                    self._go_on()
                raise
            for piece in self._ranges():
                freed += piece.size_bytes if piece.mapped else 0
                piece.unmap()
            times.lap("unmap_s")
        return {**times.laps, "released_bytes": freed}

    def resume(self, leases: Mapping[str, str], holder: str | None, deadline_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Map everything again and let the steps go on; returns seconds by part, and the copies' facts by model.

        Args:
            leases: model -> token of its copy on the GPU.
            holder: socket of the weights holder, as the replica sees it.
            deadline_s: for all of it.

        Raises:
            RuntimeError: weights are released and no holder was named; what failed stays unmapped.
            TimeoutError, DriverError: the holder, or another request, was not done in time.
        """
        times, ends_s = _Times(), time.monotonic() + deadline_s
        with self._steps:
            self._resumes += 1
            self._steps.notify_all()
        with self._alone(ends_s):
            self._restore_stacks()
            times.lap("stacks_s")
            for scratch in self.scratch:
                if not scratch.range.mapped:
                    scratch.range.map_own()
            times.lap("scratch_s")
            facts = {}
            for name, weights in self.weights.items():
                if name in self._torn:
                    weights.range.unmap()
                if not weights.range.mapped:
                    facts[name] = self._take(weights, name, leases, holder, ends_s)
            times.lap("weights_s")
            self._go_on()
        return {**times.laps, **({"weights": facts} if facts else {})}

    def digest(self, deadline_s: float = _PATIENCE_S) -> str:
        """Return the digest of all weights together, as text.

        Raises:
            RuntimeError: some are not on the GPU now; reading there would destroy the replica's CUDA context.
            TimeoutError: another request runs.
        """
        with self._alone(time.monotonic() + deadline_s):
            gone = [name for name, held in self.weights.items() if not held.range.mapped or name in self._torn]
            if gone:
                raise RuntimeError(f"the weights of {gone[0]} are not on the GPU")
            self._enter()
            return ".".join(weights.digest() for weights in self.weights.values())

    @contextmanager
    def _alone(self, ends_s: float) -> Iterator[None]:
        if not self._moving.acquire(timeout=_left_s(ends_s)):
            raise TimeoutError("another request runs on this replica")
        try:
            yield
        finally:
            self._moving.release()

    def _drain(self, wanted: _Wanted, times: _Times) -> None:
        """Wait for running steps (new ones wait by now), and release whatever need not be in an image."""
        self._await(lambda: not self._running, wanted, "a step did not end in time")
        self._end_workers(wanted)  # of what the last steps compiled; a worker must not end under a dump
        self._synchronize()
        self._await(wanted.in_time, wanted, "the GPU did not finish in time")
        self._on_quiesce_called = True
        self.on_quiesce()
        self._synchronize()
        times.lap("drain_s")
        _empty_caches()
        for ordinal in self._devices():
            self._stacks.release(ordinal)
        self._await(wanted.in_time, wanted, "the replica did not finish in time")
        times.lap("caches_s")

    def _go_on(self) -> None:
        with suppress(VmmError):  # no memory for them: each kernel launch allocates its own as it needs them
            self._restore_stacks()
        if self._on_quiesce_called:
            self.on_resume()
            self._on_quiesce_called = False
        with self._steps:
            self._quiet = False
            self._steps.notify_all()

    def _await(self, done: Callable[[], bool], wanted: _Wanted, late: str) -> None:
        with self._steps:
            self._steps.wait_for(lambda: done() or self._resumes != wanted.resumes, _left_s(wanted.ends_s))
            if self._resumes != wanted.resumes:
                raise TimeoutError("it was cancelled by a resume")
            if not done():
                raise TimeoutError(late)

    def _end_workers(self, wanted: _Wanted) -> None:
        self._start_ending_workers()
        self._await(lambda: not self._workers_end, wanted, "the compile workers did not end in time")

    def _start_ending_workers(self) -> None:
        """End the workers in a thread: torch waits for them without a limit."""
        with self._steps:
            if not self._workers_end:
                threading.Thread(target=self._let_workers_end, name="replica-workers", daemon=True).start()
                self._workers_end = True

    def _let_workers_end(self) -> None:
        try:
            end_compile_workers()
        finally:
            with self._steps:
                self._workers_end = False
                self._steps.notify_all()

    def _take(
        self, weights: WeightsRange, name: str, leases: Mapping[str, str], holder: str | None, ends_s: float
    ) -> dict[str, Any]:
        """Map a model's memory while the holder copies into it, then wait for the copy; unmap it again on a failure."""
        if name not in leases or holder is None:
            raise RuntimeError(f"the weights of {name} are released and no holder was named")
        times = _Times()
        client = HolderClient(holder)
        self._torn.add(name)
        try:
            fd, size = client.take(leases[name], _left_s(ends_s))
            _refuse_other_size(name, fd, size, weights.range.size_bytes)
            times.lap("take_s")
            weights.range.map_imported(fd)
            times.lap("map_s")
            facts = client.wait(leases[name], _left_s(ends_s))
            times.lap("wait_s")
            client.done(leases[name], _left_s(ends_s))
        except BaseException:
            weights.range.unmap()
            raise
        finally:
            client.close()
        self._torn.discard(name)
        return {**facts, **times.laps}

    def _ranges(self) -> Iterator[Any]:
        yield from (weights.range for weights in self.weights.values())
        yield from (scratch.range for scratch in self.scratch)

    def _enter(self) -> None:
        """Make the device's context current in this thread."""
        import torch

        torch.cuda.set_device(self.ordinal)

    def _synchronize(self) -> None:
        """Wait for all devices; torch waits for one at a time."""
        import torch

        for ordinal in self._devices():
            torch.cuda.synchronize(ordinal)

    def _restore_stacks(self) -> None:
        for ordinal in self._devices():
            self._stacks.restore(ordinal)

    def _devices(self) -> Iterator[int]:
        """Yield each ordinal with its context current, and make our own current at the end."""
        import torch

        for ordinal in sorted({self.ordinal, *(piece.ordinal for piece in self._ranges())}):
            torch.cuda.set_device(ordinal)
            yield ordinal
        self._enter()

    def _converse(self, connection: socket.socket) -> None:
        stream = MessageStream(connection, LONGEST_LINE_BYTES)
        connection.settimeout(_REQUEST_S)
        try:
            _refuse_others(connection)
            while (message := stream.receive(_REQUEST_S)) is not None:
                stream.send(self._answer(message))
        except DriverError as error:
            stream.send(error_message(error))

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        operation = message.get("op")
        try:
            check_version(message)
            return {"result": self._carry_out(message)}
        except DriverError as error:
            return error_message(error)
        except TimeoutError as error:
            return error_message(DriverError(Reason.DEADLINE_EXCEEDED, str(error)))
        except Exception as error:  # noqa: BLE001 - answered to the client; the replica keeps running
            reason = FAILED.get(str(operation), Reason.REQUEST_INVALID)
            return error_message(DriverError(reason, f"{type(error).__name__}: {error}"))

    def _carry_out(self, message: dict[str, Any]) -> dict[str, Any]:
        deadline_s = float(message.get("deadline_s", _PATIENCE_S))
        match message.get("op"):
            case "quiesce":
                return self.quiesce(deadline_s)
            case "resume":
                return self.resume(message.get("leases", {}), message.get("holder_socket"), deadline_s)
            case "digest":
                return {"digest": self.digest(deadline_s)}
            case "state":
                return {"quiet": self._quiet, "mapped": [piece.mapped for piece in self._ranges()]}
            case other:
                raise DriverError(Reason.REQUEST_INVALID, f"there is no op {other!r:.100}")


def _refuse_others(connection: socket.socket) -> None:
    if not is_root_or_us(connection):
        raise DriverError(Reason.NOT_TRUSTED, "only root and the replica's own user may use its helper")


def _refuse_other_size(name: str, fd: int, size_bytes: int, expected_bytes: int) -> None:
    if size_bytes != expected_bytes:
        os.close(fd)
        raise RuntimeError(f"the holder's {name} has {size_bytes:,} bytes, the range {expected_bytes:,}")


@dataclass(frozen=True)
class _Wanted:
    """Until when a quiesce is wanted: a moment of the monotonic clock, or the next resume."""

    ends_s: float
    resumes: int
    """Resumes that had been requested before it."""

    def in_time(self) -> bool:
        return time.monotonic() < self.ends_s


class _Times:
    """Seconds by part, each from the end of the one before."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._at = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._at
        self._at = now


def _empty_caches() -> None:
    """Release what need not be in an image: torch's caches on GPU and host, malloc's free lists."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    for name in ("_host_emptyCache", "_accelerator_emptyHostCache"):
        empty = getattr(torch._C, name, None)  # noqa: SLF001 - torch has no public name for it
        if empty is not None:
            empty()
            break
    trim_heap()


def end_compile_workers() -> None:
    """End Inductor's worker processes: they would be dumped with the replica, and are not needed after compilation."""
    with suppress(ImportError, AttributeError):
        from torch._inductor import async_compile

        async_compile.shutdown_compile_workers()


def _left_s(ends_s: float) -> float:
    return max(0.0, ends_s - time.monotonic())
