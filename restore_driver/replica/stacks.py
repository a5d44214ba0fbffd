"""Release the device memory that CUDA keeps for kernel stacks while a replica is quiesced.

A context holds a stack for every thread that its GPU could run at once, `CU_LIMIT_STACK_SIZE` each: 277 MB of an H100
or H200 at the default of 1 KiB. A checkpoint copies them into the host's memory, a restore copies them back, at a few
GB/s: 75 ms of either (docs/restore.md). They hold nothing while no kernel runs, so the limit is zero meanwhile, and is
put back before the next step.
"""

from __future__ import annotations

from contextlib import suppress

from restore_driver.replica.vmm import VmmError, call


class Stacks:
    """Stack limits of one process; the context of an ordinal must be current in each call."""

    def __init__(self) -> None:
        self._were_bytes: dict[int, int] = {}

    def release(self, ordinal: int) -> None:
        """Free the stacks of a device; where the driver refuses, they stay, and all else works."""
        if ordinal in self._were_bytes:
            return
        with suppress(VmmError, ImportError, RuntimeError):
            were = int(call("cuCtxGetLimit", _stack_size()))
            call("cuCtxSetLimit", _stack_size(), 0)
            self._were_bytes[ordinal] = were

    def restore(self, ordinal: int) -> None:
        """Put the limit back; idempotent.

        Raises:
            VmmError: the GPU has no memory for the stacks.
        """
        if ordinal in self._were_bytes:
            call("cuCtxSetLimit", _stack_size(), self._were_bytes[ordinal])
            del self._were_bytes[ordinal]


def _stack_size() -> object:
    from cuda.bindings import driver

    return driver.CUlimit.CU_LIMIT_STACK_SIZE
