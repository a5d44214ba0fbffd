"""The replica's side of quiesce and resume: a thread on a unix socket, a line of JSON each way.

    {"op": "quiesce"}   no step runs any more; weights and scratch leave the card; caches are emptied, workers ended
    {"op": "resume"}    + {"leases": {model: token}, "holder_socket": path}: memory is mapped again, steps go on
    {"op": "digest"}    the digest of the weights on the card
    {"op": "state"}     running, or quiet, and what is mapped

Each may bring {"deadline_s": seconds}. Answers are {"ok": true, ...timings} or {"ok": false, "detail": ...}. Both ways
may be repeated, also after one that failed half-way. A step that comes while the replica is quiet waits, however long
that is; it does not fail.

All that may take long comes before the first range is unmapped: until then a quiesce that is late, or fails, leaves a
replica that runs as before. A resume calls off every quiesce that was asked for before it: whoever asked for that has
given up by then, and nobody else would wake the replica.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from restore_driver.host.buffers import trim_heap
from restore_driver.host.unix_sockets import accept_one, is_root_or_us, listen
from restore_driver.replica.ranges import ScratchRange, WeightsRange
from restore_driver.replica.stacks import Stacks
from restore_driver.replica.vmm import VmmError
from restore_driver.weights.client import HolderClient

_PATIENCE_S = 600.0
"""For whoever names no deadline."""


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
        """`on_quiesce` is called when no step runs any more; `on_resume` before steps go on, and only after that one,
        though it may have failed half-way. Either may be repeated."""
        self.path, self.weights, self.scratch = path, dict(weights or {}), list(scratch)
        self.on_quiesce, self.on_resume, self.ordinal = on_quiesce, on_resume, ordinal
        self._steps = threading.Condition()
        self._running, self._quiet, self._workers_end = 0, False, False
        self._resumes = 0
        """How many were asked for."""
        self._moving = threading.Lock()
        """Held by whoever maps, unmaps or reads the ranges."""
        self._rests = False
        """Between `on_quiesce` and `on_resume`."""
        self._stacks = Stacks()
        self._torn: set[str] = set()
        """Models that are mapped, but perhaps not whole."""

    def start(self) -> None:
        """Begins to listen, in a thread of its own; all is compiled by now, so the compile workers end meanwhile.

        Ending them takes seconds, which would else be part of the first checkpoint's pause.
        """
        self._begin_ending_workers()
        listener = listen(self.path, 4)
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
            TimeoutError: workers, steps or the card were not at rest in time, or a resume called it off; the replica
                is as it was.
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
                self._come_to_rest(wanted, times)
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
        """Maps everything again and lets the steps go on.

        Raises:
            RuntimeError: weights are gone and nobody was named who has them; what failed stays unmapped.
            TimeoutError, DriverError: the holder, or another request, was not done in time.
        """
        times, ends_s = _Times(), time.monotonic() + deadline_s
        with self._steps:
            self._resumes += 1
            self._steps.notify_all()
        with self._alone(ends_s):
            self._take_stacks_back()
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
        """Of all weights together.

        Raises:
            RuntimeError: some are not on the card now; reading there would cost the replica its context.
        """
        with self._alone(time.monotonic() + deadline_s):
            gone = [name for name, held in self.weights.items() if not held.range.mapped or name in self._torn]
            if gone:
                raise RuntimeError(f"the weights of {gone[0]} are not on the card")
            self._enter()
            return ".".join(weights.digest() for weights in self.weights.values())

    @contextmanager
    def _alone(self, ends_s: float) -> Iterator[None]:
        if not self._moving.acquire(timeout=_left_s(ends_s)):
            raise TimeoutError("another request is at work on this replica")
        try:
            yield
        finally:
            self._moving.release()

    def _come_to_rest(self, wanted: _Wanted, times: _Times) -> None:
        """New steps wait by now; those that run end, and all that needs not be in an image goes."""
        self._await(lambda: not self._running, wanted, "a step did not end in time")
        self._end_workers(wanted)  # of what the last steps compiled; a worker must not end under a dump
        self._synchronize()
        self._await(wanted.in_time, wanted, "the card was not at rest in time")
        self._rests = True
        self.on_quiesce()
        self._synchronize()
        times.lap("drain_s")
        _empty_caches()
        for ordinal in self._devices():
            self._stacks.give_up(ordinal)
        self._await(wanted.in_time, wanted, "the replica was not at rest in time")
        times.lap("caches_s")

    def _go_on(self) -> None:
        with suppress(VmmError):  # there is no room for them: each launch of a kernel makes its own, as it needs them
            self._take_stacks_back()
        if self._rests:
            self.on_resume()
            self._rests = False
        with self._steps:
            self._quiet = False
            self._steps.notify_all()

    def _await(self, done: Callable[[], bool], wanted: _Wanted, late: str) -> None:
        with self._steps:
            self._steps.wait_for(lambda: done() or self._resumes != wanted.resumes, _left_s(wanted.ends_s))
            if self._resumes != wanted.resumes:
                raise TimeoutError("it was called off by a resume")
            if not done():
                raise TimeoutError(late)

    def _end_workers(self, wanted: _Wanted) -> None:
        self._begin_ending_workers()
        self._await(lambda: not self._workers_end, wanted, "the compile workers did not end in time")

    def _begin_ending_workers(self) -> None:
        """In a thread: torch waits for them as long as it likes."""
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
        """Mapped while the holder still copies; waited for after. Half a model is none: it is unmapped again."""
        if name not in leases or holder is None:
            raise RuntimeError(f"the weights of {name} are gone and no holder was named")
        times = _Times()
        client = HolderClient(holder)
        self._torn.add(name)
        try:
            fd, size = client.take(leases[name], _left_s(ends_s))
            if size != weights.range.size_bytes:
                os.close(fd)
                raise RuntimeError(f"the holder's {name} has {size:,} bytes, the range {weights.range.size_bytes:,}")
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
        """The device's context is current per thread."""
        import torch

        torch.cuda.set_device(self.ordinal)

    def _synchronize(self) -> None:
        """torch waits for one device at a time."""
        import torch

        for ordinal in self._devices():
            torch.cuda.synchronize(ordinal)

    def _take_stacks_back(self) -> None:
        for ordinal in self._devices():
            self._stacks.take_back(ordinal)

    def _devices(self) -> Iterator[int]:
        """Each in turn, its context current meanwhile; ours is at the end."""
        import torch

        for ordinal in sorted({self.ordinal, *(piece.ordinal for piece in self._ranges())}):
            torch.cuda.set_device(ordinal)
            yield ordinal
        self._enter()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            accept_one(listener, self._converse, "replica-asker")

    def _converse(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall((json.dumps(self._answer(connection, line)) + "\n").encode())

    def _answer(self, connection: socket.socket, line: bytes) -> dict[str, Any]:
        try:
            if not is_root_or_us(connection):
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


@dataclass(frozen=True)
class _Wanted:
    """Until when a quiesce is wanted."""

    ends_s: float
    resumes: int
    """That had been asked for before it."""

    def in_time(self) -> bool:
        return time.monotonic() < self.ends_s


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
    """What needs not be in an image: torch's caches on card and host, malloc's free lists."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    for name in ("_host_emptyCache", "_accelerator_emptyHostCache"):
        empty = getattr(torch._C, name, None)
        if empty is not None:
            empty()
            break
    trim_heap()


def end_compile_workers() -> None:
    """Inductor's worker processes: they would be dumped with the replica, and are not needed once all is compiled."""
    with suppress(ImportError, AttributeError):
        from torch._inductor import async_compile

        async_compile.shutdown_compile_workers()


def _left_s(ends_s: float) -> float:
    return max(0.0, ends_s - time.monotonic())
