"""Leases: copies of a model from host memory to the GPU, until a replica has mapped the memory.

A lease begins with a reservation: refused before anything is touched if the GPU has too little memory, other
reservations counted. Allocation (tens of milliseconds) and copy run in a thread, so that the client goes on at once;
the replica gets the descriptor as soon as there is memory, and maps it while the copy runs.

A copy that hangs in the driver cannot be ended. So waiters poll `Left` and give up when their client has disconnected;
the copy holds no lock but that for memory of the same GPU, and its own thread releases its memory when it ends.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.device import CONTEXT_MARGIN_BYTES, Device, DeviceMemory
from restore_driver.weights.store import HeldModel, Store

_COPY_PATIENCE_S = 10.0
"""A copy takes tenths of a second."""
_LOOK_S = 0.5

Left = Callable[[], bool]
"""Return True once the waiting client has disconnected."""


@dataclass
class Lease:
    """One copy of a model on the GPU that is still the holder's."""

    token: str
    model: HeldModel
    size_bytes: int
    memory: DeviceMemory | None = None
    allocated: threading.Event = field(default_factory=threading.Event)
    copied: threading.Event = field(default_factory=threading.Event)
    allocate_s: float = 0.0
    copy_s: float = 0.0
    failure: DriverError | None = None
    given_up: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)
    """Excludes handing the memory over while it is released."""

    def free(self) -> None:
        """Release memory that was given up; nothing is copied there any more."""
        with self.guard:
            if self.given_up and self.memory is not None:
                memory, self.memory = self.memory, None
                memory.release()

    def timings(self) -> dict[str, Any]:
        """Return bytes, seconds and rate of the copy, once it has ended."""
        bytes_ = self.model.layout.total_bytes
        return {
            "bytes": bytes_,
            "allocate_s": self.allocate_s,
            "copy_s": self.copy_s,
            "bytes_per_s": bytes_ / self.copy_s if self.copy_s else None,
        }


@dataclass
class Leases:
    """All leases."""

    device: Device
    store: Store
    margin_bytes: int = CONTEXT_MARGIN_BYTES
    leases: dict[str, Lease] = field(default_factory=dict)
    on_copied: Callable[[Lease], None] = lambda _: None
    """Called by the copy's thread when it has ended, in success or failure."""
    _reserved_bytes: int = 0
    """Reserved by leases that are not allocated yet, which the GPU therefore still counts as free."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Guards the table of leases."""
    _gpu: threading.Lock = field(default_factory=threading.Lock)
    """Guards reservations and allocations on the GPU."""

    def load(self, name: str) -> Lease:
        """Reserve memory on the GPU and begin to copy.

        Raises:
            DriverError: TOO_LITTLE_MEMORY with nothing touched; WEIGHTS_FAILED for a model that is not held.
        """
        model = self.store.borrow(name)
        try:
            with self._gpu:  # one after the other: two cannot reserve the same memory
                lease = self._reserve(model)
        except BaseException:
            self.store.give_back(model)
            raise
        with self._lock:
            self.leases[lease.token] = lease
        try:
            threading.Thread(target=self._copy, args=(lease,), name=f"load-{name}", daemon=True).start()
        except BaseException:
            with self._lock:
                del self.leases[lease.token]
            with self._gpu:
                self._reserved_bytes -= lease.size_bytes
            self.store.give_back(model)
            raise
        return lease

    def get(self, token: str) -> Lease:
        """Return the lease of a token.

        Raises:
            DriverError: WEIGHTS_FAILED for a token that is not known (any more).
        """
        with self._lock:
            lease = self.leases.get(token)
        if lease is None:
            raise DriverError(Reason.WEIGHTS_FAILED, "there is no such lease: it was released, or the holder restarted")
        return lease

    def export(self, token: str, left: Left = lambda: False) -> tuple[int, int]:
        """Return a descriptor of a lease's device memory (the caller closes it) and its size, once it is allocated.

        Raises:
            DriverError: the failure of the allocation or the copy; WEIGHTS_FAILED for a lease that was given up.
        """
        lease = self.get(token)
        _wait(lease.allocated, left)
        with lease.guard:
            if lease.failure is not None:
                raise lease.failure
            if lease.memory is None or lease.given_up:
                raise DriverError(Reason.WEIGHTS_FAILED, "the lease was given up", "load the model again")
            return lease.memory.export(), lease.size_bytes

    def wait(self, token: str, left: Left = lambda: False) -> Lease:
        """Return the lease once its copy is done.

        Raises:
            DriverError: the failure of the copy; WEIGHTS_FAILED once the client has left.
        """
        lease = self.get(token)
        _wait(lease.copied, left)
        if lease.failure is not None:
            raise lease.failure
        return lease

    def release(self, token: str, patience_s: float = _COPY_PATIENCE_S) -> None:
        """End a lease and release its memory once the copy is done; idempotent.

        Wait up to `patience_s` seconds for the copy, so that the memory is free when this returns; after that the
        copy's own thread releases it.
        """
        with self._lock:
            lease = self.leases.pop(token, None)
        if lease is None:
            return
        with lease.guard:
            lease.given_up = True
        if lease.copied.wait(patience_s):
            lease.free()

    def _reserve(self, model: HeldModel) -> Lease:
        granularity = self.device.granularity_bytes()
        size = -(-model.layout.total_bytes // granularity) * granularity
        free = self.device.free_bytes() - self._reserved_bytes
        if size + self.margin_bytes > free:
            raise DriverError(
                Reason.TOO_LITTLE_MEMORY,
                f"model {model.name} needs {size:,} bytes of the GPU and {self.margin_bytes:,} beside it, "
                f"{free:,} are free",
                "park or end a replica on it",
            )
        self._reserved_bytes += size
        return Lease(secrets.token_hex(16), model, size)

    def _copy(self, lease: Lease) -> None:
        began_s = time.monotonic()
        try:
            memory = self._allocate(lease)
            lease.allocate_s = time.monotonic() - began_s
            began_s = time.monotonic()
            with memoryview(lease.model.buffer) as view, view[: lease.model.layout.total_bytes] as source:
                memory.copy_from(source)
        except DriverError as error:
            lease.failure = error
        except Exception as error:  # noqa: BLE001 - reported by the lease to the client that waits
            lease.failure = DriverError(Reason.WEIGHTS_FAILED, f"{type(error).__name__}: {error}")
        finally:
            lease.copy_s = time.monotonic() - began_s
            self.store.give_back(lease.model)
            lease.allocated.set()
            lease.copied.set()
            lease.free()
            self.on_copied(lease)

    def _allocate(self, lease: Lease) -> DeviceMemory:
        with self._gpu:  # a reservation becomes memory in one step, or ends
            self._reserved_bytes -= lease.size_bytes
            lease.memory = self.device.allocate(lease.size_bytes)
        lease.allocated.set()
        return lease.memory


def _wait(event: threading.Event, left: Left) -> None:
    while not event.wait(_LOOK_S):
        if left():
            raise DriverError(Reason.WEIGHTS_FAILED, "the client that waited for the copy has disconnected")
