"""Loads under way: a model on its way from host memory to the card, until somebody has mapped it.

A lease begins with a promise: refused before anything is touched if the card has too little memory, other promises
counted. Allocation (tens of milliseconds) and copy are a thread's, so that whoever asked goes on at once; the taker
gets the descriptor as soon as there is memory, and maps it while the copy runs.

A copy that hangs in the driver can't be ended. So nobody waits for one longer than he likes (`Left`), it holds no lock
that others need, except those who want memory of the same card, and its own thread gives up its memory when it ends.
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
"""Whether whoever waits has left, and need not be answered."""


@dataclass
class Lease:
    """One copy of a model on the card, still ours."""

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
    """Between handing the memory over and giving it up."""

    def free(self) -> None:
        """Lets go of memory that was given up; nothing is copied there any more."""
        with self.guard:
            if self.given_up and self.memory is not None:
                memory, self.memory = self.memory, None
                memory.release()

    def timings(self) -> dict[str, Any]:
        """What it took, once copied."""
        bytes_ = self.model.layout.total_bytes
        return {
            "bytes": bytes_,
            "allocate_s": self.allocate_s,
            "copy_s": self.copy_s,
            "bytes_per_s": bytes_ / self.copy_s if self.copy_s else None,
        }


@dataclass
class Leases:
    """All loads under way."""

    device: Device
    store: Store
    margin_bytes: int = CONTEXT_MARGIN_BYTES
    leases: dict[str, Lease] = field(default_factory=dict)
    _promised_bytes: int = 0
    """Of leases that are not allocated yet, which the card therefore still counts as free."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """For the table of leases."""
    _card: threading.Lock = field(default_factory=threading.Lock)
    """For what is promised and had of the card."""

    def load(self, name: str) -> Lease:
        """Promises memory on the card and begins to copy.

        Raises:
            DriverError: TOO_LITTLE_MEMORY with nothing touched; WEIGHTS_FAILED for a model that is not held.
        """
        model = self.store.borrow(name)
        try:
            with self._card:  # one after the other: two can't be promised the same memory
                lease = self._promise(model)
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
            with self._card:
                self._promised_bytes -= lease.size_bytes
            self.store.give_back(model)
            raise
        return lease

    def get(self, token: str) -> Lease:
        """The lease of a token.

        Raises:
            DriverError: WEIGHTS_FAILED for a token that is not known (any more).
        """
        with self._lock:
            lease = self.leases.get(token)
        if lease is None:
            raise DriverError(Reason.WEIGHTS_FAILED, "there is no such lease: it was released, or the holder restarted")
        return lease

    def export(self, token: str, left: Left = lambda: False) -> tuple[int, int]:
        """A descriptor of a lease's device memory and its size, as soon as it is allocated; the caller closes it.

        Raises:
            DriverError: what the allocation or the copy failed of; WEIGHTS_FAILED for a lease that was given up.
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
        """Returns once the copy is done.

        Raises:
            DriverError: what the copy failed of.
        """
        lease = self.get(token)
        _wait(lease.copied, left)
        if lease.failure is not None:
            raise lease.failure
        return lease

    def release(self, token: str, patience_s: float = _COPY_PATIENCE_S) -> None:
        """Gives up our reference once the copy is done; idempotent.

        The copy is waited for, so that the memory is free when this returns, but not for ever: then the copy's own
        thread gives it up.
        """
        with self._lock:
            lease = self.leases.pop(token, None)
        if lease is None:
            return
        with lease.guard:
            lease.given_up = True
        if lease.copied.wait(patience_s):
            lease.free()

    def _promise(self, model: HeldModel) -> Lease:
        granularity = self.device.granularity_bytes()
        size = -(-model.layout.total_bytes // granularity) * granularity
        free = self.device.free_bytes() - self._promised_bytes
        if size + self.margin_bytes > free:
            raise DriverError(
                Reason.TOO_LITTLE_MEMORY,
                f"model {model.name} needs {size:,} bytes of the card and {self.margin_bytes:,} beside it, "
                f"{free:,} are free",
                "park or end a replica on it",
            )
        self._promised_bytes += size
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
        except Exception as error:
            lease.failure = DriverError(Reason.WEIGHTS_FAILED, f"{type(error).__name__}: {error}")
        finally:
            lease.copy_s = time.monotonic() - began_s
            self.store.give_back(lease.model)
            lease.allocated.set()
            lease.copied.set()
            lease.free()

    def _allocate(self, lease: Lease) -> DeviceMemory:
        with self._card:  # a promise becomes memory in one step, or is off
            self._promised_bytes -= lease.size_bytes
            lease.memory = self.device.allocate(lease.size_bytes)
        lease.allocated.set()
        return lease.memory


def _wait(event: threading.Event, left: Left) -> None:
    while not event.wait(_LOOK_S):
        if left():
            raise DriverError(Reason.WEIGHTS_FAILED, "whoever waited for the copy has left")
