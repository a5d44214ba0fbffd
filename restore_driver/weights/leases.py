"""Loads under way: a model on its way from host memory to the card, until somebody has mapped it.

A lease begins with the allocation (refused before anything is touched if the card has too little memory, other leases'
share counted) and a thread that copies. The taker gets the descriptor at once and maps the memory while the copy runs.
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


@dataclass
class Lease:
    """One copy of a model on the card, still ours."""

    token: str
    model: Model
    memory: DeviceMemory
    size_bytes: int
    allocate_s: float
    began_s: float
    copied: threading.Event = field(default_factory=threading.Event)
    copy_s: float = 0.0
    failure: DriverError | None = None

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
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, name: str) -> Lease:
        """Allocates on the card and begins to copy.

        Raises:
            DriverError: TOO_LITTLE_MEMORY with nothing touched; WEIGHTS_FAILED for a model that is not held.
        """
        model = self.store.borrow(name)
        try:
            with self._lock:  # one after the other: two can't be promised the same memory
                lease = self._allocate(model)
                self.leases[lease.token] = lease
        except BaseException:
            self.store.give_back(model)
            raise
        threading.Thread(target=self._copy, args=(lease,), name=f"load-{name}", daemon=True).start()
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
        """Gives up our reference once the copy is done; idempotent."""
        with self._lock:
            lease = self.leases.pop(token, None)
        if lease is not None:
            lease.copied.wait()
            lease.memory.release()

    def _allocate(self, model: Model) -> Lease:
        began_s = time.monotonic()
        granularity = self.device.granularity_bytes()
        size = -(-model.layout.total_bytes // granularity) * granularity
        free = self.device.free_bytes()
        if size + self.margin_bytes > free:
            raise DriverError(
                Reason.TOO_LITTLE_MEMORY,
                f"model {model.name} needs {size:,} bytes of the card and {self.margin_bytes:,} beside it, "
                f"{free:,} are free",
                "park or end a replica on it",
            )
        memory = self.device.allocate(size)
        return Lease(secrets.token_hex(16), model, memory, size, time.monotonic() - began_s, began_s)

    def _copy(self, lease: Lease) -> None:
        began_s = time.monotonic()
        try:
            with memoryview(lease.model.buffer) as view, view[: lease.model.layout.total_bytes] as source:
                lease.memory.copy_from(source)
        except DriverError as error:
            lease.failure = error
        except Exception as error:
            lease.failure = DriverError(Reason.WEIGHTS_FAILED, f"{type(error).__name__}: {error}")
        finally:
            lease.copy_s = time.monotonic() - began_s
            self.store.give_back(lease.model)
            lease.copied.set()
