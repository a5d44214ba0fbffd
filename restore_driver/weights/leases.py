"""Loads under way: a model on its way from host memory to the card, until somebody has mapped it.

A lease begins with a promise: refused before anything is touched if the card has too little memory, other promises
counted. Allocation (tens of milliseconds) and copy are a thread's, so that whoever asked goes on at once; the taker
gets the descriptor as soon as there is memory, and maps it while the copy runs.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.weights.device import CONTEXT_MARGIN_BYTES, Device, DeviceMemory
from restore_driver.weights.store import Model, Store

_COPY_PATIENCE_S = 10.0


@dataclass
class Lease:
    """One copy of a model on the card, still ours."""

    token: str
    model: Model
    size_bytes: int
    memory: DeviceMemory | None = None
    allocated: threading.Event = field(default_factory=threading.Event)
    copied: threading.Event = field(default_factory=threading.Event)
    allocate_s: float = 0.0
    copy_s: float = 0.0
    failure: DriverError | None = None
    released: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)
    """Between handing the memory over and giving it up."""

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

    def load(self, name: str) -> Lease:
        """Promises memory on the card and begins to copy.

        Raises:
            DriverError: TOO_LITTLE_MEMORY with nothing touched; WEIGHTS_FAILED for a model that is not held.
        """
        model = self.store.borrow(name)
        try:
            with self._lock:  # one after the other: two can't be promised the same memory
                lease = self._promise(model)
                self.leases[lease.token] = lease
        except BaseException:
            self.store.give_back(model)
            raise
        try:
            threading.Thread(target=self._copy, args=(lease,), name=f"load-{name}", daemon=True).start()
        except BaseException:
            with self._lock:
                del self.leases[lease.token]
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

    def export(self, token: str) -> tuple[int, int]:
        """A descriptor of a lease's device memory and its size, as soon as it is allocated; the caller closes it.

        Raises:
            DriverError: what the allocation or the copy failed of; WEIGHTS_FAILED for a lease that was given up.
        """
        lease = self.get(token)
        lease.allocated.wait()
        with lease.guard:
            if lease.failure is not None:
                raise lease.failure
            if lease.memory is None or lease.released:
                raise DriverError(Reason.WEIGHTS_FAILED, "the lease was given up", "load the model again")
            return lease.memory.export(), lease.size_bytes

    def wait(self, token: str) -> Lease:
        """Returns once the copy is done; the caller's connection bounds the wait.

        Raises:
            DriverError: what the copy failed of.
        """
        lease = self.get(token)
        lease.copied.wait()
        if lease.failure is not None:
            raise lease.failure
        return lease

    def release(self, token: str) -> None:
        """Gives up our reference once the copy is done; idempotent.

        A copy takes tenths of a second. One that hangs in the driver must not hold up whoever asks for something else:
        its memory is given up when it ends, by a thread that waits for it.
        """
        with self._lock:
            lease = self.leases.pop(token, None)
        if lease is None:
            return
        if lease.copied.wait(_COPY_PATIENCE_S):
            _give_up(lease)
        else:
            threading.Thread(target=_give_up, args=(lease,), name="slow-release", daemon=True).start()

    def _promise(self, model: Model) -> Lease:
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

    def _allocate(self, lease: Lease) -> DeviceMemory:
        with self._lock:  # a promise becomes memory in one step, or is off
            self._promised_bytes -= lease.size_bytes
            lease.memory = self.device.allocate(lease.size_bytes)
        lease.allocated.set()
        return lease.memory


def _give_up(lease: Lease) -> None:
    lease.copied.wait()
    with lease.guard:
        if lease.memory is not None and not lease.released:
            lease.released = True
            lease.memory.release()
