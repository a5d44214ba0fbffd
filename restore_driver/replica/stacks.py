"""The device memory that CUDA keeps for stacks, given up while a replica is at rest.

A context holds a stack for every thread that its card could run at once, `CU_LIMIT_STACK_SIZE` each: 277 MB of an H100
or H200 at the default of 1 KiB. A checkpoint copies them into the host's memory, a restore copies them back, at a few
GB/s: 75 ms of either (docs/restore.md). Nothing lies in them while no kernel runs, so the limit is zero meanwhile, and
what it was before the next step.
"""

from __future__ import annotations

from contextlib import suppress

from restore_driver.replica.vmm import VmmError, call


class Stacks:
    """Of one process; the device's context must be current wherever an ordinal is given."""

    def __init__(self) -> None:
        self._were_bytes: dict[int, int] = {}

    def give_up(self, ordinal: int) -> None:
        """Frees them; where the driver won't, they stay, and all else works."""
        if ordinal in self._were_bytes:
            return
        with suppress(VmmError, ImportError, RuntimeError):
            were = int(call("cuCtxGetLimit", _stack_size()))
            call("cuCtxSetLimit", _stack_size(), 0)
            self._were_bytes[ordinal] = were

    def take_back(self, ordinal: int) -> None:
        """As they were; repeating it changes nothing.

        Raises:
            VmmError: the card has no memory for them.
        """
        if ordinal in self._were_bytes:
            call("cuCtxSetLimit", _stack_size(), self._were_bytes[ordinal])
            del self._were_bytes[ordinal]


def _stack_size() -> object:
    from cuda.bindings import driver

    return driver.CUlimit.CU_LIMIT_STACK_SIZE
