"""Models in page-locked host memory within a budget: read from their files, evicted least recently used first."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.device import Device
from restore_driver.weights.safetensors import Layout, Stored, check, index

_CHUNK_BYTES = 64 << 20
_HUGE_PAGE_BYTES = 2 << 20


@dataclass
class HeldModel:
    """One model in host memory."""

    name: str
    files: tuple[Path, ...]
    layout: Layout
    buffer: mmap.mmap
    unpin: Callable[[], None]
    read_s: float
    pin_s: float
    used_at: int
    users: int = 0
    """Copies to a GPU that are under way: the model is not evicted while there are any."""


@dataclass
class Store:
    """Models by name; safe for several threads."""

    device: Device
    budget_bytes: int
    huge_pages: bool = True
    models: dict[str, HeldModel] = field(default_factory=dict)
    _reserved_bytes: int = 0
    _uses: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _readers: dict[str, threading.Lock] = field(default_factory=dict)
    """One for each name that was ever preloaded."""

    def preload(self, name: str, files: tuple[Path, ...], layout: Layout, available_bytes: int) -> HeldModel:
        """Read a model into page-locked memory; one that is held with the same files and layout stays.

        Raises:
            DriverError: TOO_LITTLE_MEMORY before anything is touched; WEIGHTS_FAILED for its files.
        """
        with self._reading(name):  # two readers of one model would read it twice, and leak one that is pinned
            return self._preload(name, files, layout, available_bytes)

    def _preload(self, name: str, files: tuple[Path, ...], layout: Layout, available_bytes: int) -> HeldModel:
        tensors = index(files)
        check(layout, tensors)
        size = _rounded(layout.total_bytes, max(_HUGE_PAGE_BYTES, self.device.granularity_bytes()))
        with self._lock:
            present = self.models.get(name)
            if present is not None and (present.files, present.layout) == (files, layout):
                return present
            if present is not None:
                self._evict(present)
            self._evict_for(name, size, available_bytes)
            self._reserved_bytes += size
        try:
            model = self._read(name, files, layout, tensors, size)
        finally:
            with self._lock:
                self._reserved_bytes -= size
        with self._lock:
            self.models[name] = model
        return model

    def _reading(self, name: str) -> threading.Lock:
        with self._lock:
            return self._readers.setdefault(name, threading.Lock())

    def borrow(self, name: str) -> HeldModel:
        """Return a model that is not evicted until `give_back`.

        Raises:
            DriverError: WEIGHTS_FAILED when it is not held.
        """
        with self._lock:
            model = self.models.get(name)
            if model is None:
                raise DriverError(Reason.WEIGHTS_FAILED, f"the holder has no model {name}", "preload it")
            self._uses += 1
            model.used_at = self._uses
            model.users += 1
            return model

    def give_back(self, model: HeldModel) -> None:
        """End a `borrow`."""
        with self._lock:
            model.users -= 1

    def drop(self, name: str) -> None:
        """Release a model; one that is not held is no error.

        Raises:
            DriverError: BUSY while it is being copied.
        """
        with self._lock:
            if name in self.models:
                self._evict(self.models[name])

    @property
    def held_bytes(self) -> int:
        """Page-locked bytes, in use and reserved."""
        with self._lock:
            return self._held_bytes()

    def held(self) -> tuple[HeldModel, ...]:
        """Return the held models, sorted by name."""
        with self._lock:
            return tuple(model for _, model in sorted(self.models.items()))

    def _held_bytes(self) -> int:
        return self._reserved_bytes + sum(len(model.buffer) for model in self.models.values())

    def _evict_for(self, name: str, size: int, available_bytes: int) -> None:
        idle = sorted((model for model in self.models.values() if not model.users), key=lambda model: model.used_at)
        could_free = sum(len(model.buffer) for model in idle)
        if self._held_bytes() - could_free + size > self.budget_bytes:
            raise DriverError(
                Reason.TOO_LITTLE_MEMORY,
                f"model {name} needs {size:,} bytes, the budget is {self.budget_bytes:,} and "
                f"{self._held_bytes() - could_free:,} of it are in use",
                "start the holder with a larger budget",
            )
        if size > available_bytes + could_free:
            raise DriverError(
                Reason.TOO_LITTLE_MEMORY, f"model {name} needs {size:,} bytes, the host has {available_bytes:,} left"
            )
        while self._held_bytes() + size > self.budget_bytes or size > available_bytes:
            evicted = idle.pop(0)
            available_bytes += len(evicted.buffer)
            self._evict(evicted)

    def _evict(self, model: HeldModel) -> None:
        if model.users:
            raise DriverError(Reason.BUSY, f"model {model.name} is being copied to a GPU", "try again")
        del self.models[model.name]
        model.unpin()
        with suppress(BufferError):  # a view still exists: the memory is freed with it
            model.buffer.close()

    def _read(
        self, name: str, files: tuple[Path, ...], layout: Layout, tensors: dict[str, Stored], size: int
    ) -> HeldModel:
        began_s = time.monotonic()
        buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if self.huge_pages:
            buffer.madvise(mmap.MADV_HUGEPAGE)
        jobs = [
            (tensors[tensor], done, offset)
            for tensor, offset in layout.offsets_bytes.items()
            for done in range(0, tensors[tensor].size_bytes, _CHUNK_BYTES)
        ]
        with memoryview(buffer) as view, ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda job: _read_chunk(view, *job), jobs))
        read_s = time.monotonic() - began_s
        unpin = self.device.pin(buffer)
        self._uses += 1
        pin_s = time.monotonic() - began_s - read_s
        return HeldModel(name, files, layout, buffer, unpin, read_s, pin_s, self._uses)


def _read_chunk(view: memoryview, stored: Stored, done: int, offset: int) -> None:
    size = min(_CHUNK_BYTES, stored.size_bytes - done)
    target = view[offset + done : offset + done + size]
    fd = os.open(stored.file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = 0
        while read < size:
            more = os.preadv(fd, [target[read:]], stored.offset_bytes + done + read)
            if not more:
                raise DriverError(Reason.WEIGHTS_FAILED, f"{stored.file} ended early")
            read += more
    finally:
        os.close(fd)
        target.release()


def _rounded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
