"""Ending processes so that none is left: not one that a dying master started meanwhile, not one that only looks dead.

All are stopped first, since whoever is stopped starts nobody; then it is looked once more who is there. Signals go
through pidfds, taken while the start time is what it was, so a PID that is reused meanwhile is nobody's death. A pidfd
tells the end when the whole process is through with it: its memory is free and its files (a GPU is one) are closed.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError
from restore_driver.host import proc

_STOP_PATIENCE_S = 0.2
"""A signal stops a process within microseconds, unless it sits in the kernel: then it starts nobody either."""
_LOOK_EVERY_S = 0.0005

Listing = Callable[[], Iterable[int]]


def end_processes(pids: Iterable[int], deadline: Deadline, belonging: Listing | None = None) -> None:
    """SIGKILL to all and to those that they started; returns when all are gone and nobody new belongs to them.

    Args:
        pids: who is ended, with all descendants.
        deadline: for their ends; what is to be killed is sent its signal even when it has passed.
        belonging: tells who else belongs to them now, such as the members of a namespace, and is asked again after
            each round: parents that ended before leave no trace in a tree of processes.

    Raises:
        DriverError: DEADLINE_EXCEEDED when one does not end.
    """
    roots: Iterable[int] = pids
    while True:
        ending = _Ending(belonging)
        with ending.stack:
            ending.take_hold(roots)
            if not ending.held:
                return
            ending.stop()
            ending.kill(deadline)
        if belonging is None:
            return
        roots = ()


class _Ending:
    """One round; `stack` keeps the pidfds of who is `held`."""

    def __init__(self, belonging: Listing | None) -> None:
        self.stack = ExitStack()
        self.held: dict[tuple[int, int], int] = {}
        self._belonging = belonging

    def take_hold(self, roots: Iterable[int]) -> None:
        """Of these, of who belongs to them, and of all descendants, as they are now."""
        listed = (*roots, *(self._belonging() if self._belonging is not None else ()))
        for pid in dict.fromkeys(member for root in listed for member in proc.tree(root)):
            self._take_hold(pid)

    def stop(self) -> None:
        """Stops all, and those that they started while we did."""
        ends_s = time.monotonic() + _STOP_PATIENCE_S
        stopped: set[tuple[int, int]] = set()
        while fresh := self.held.keys() - stopped:
            for who in fresh:
                self._send(who, signal.SIGSTOP)
            stopped |= fresh
            while any(proc.is_busy(pid) for pid, _ in stopped) and time.monotonic() < ends_s:
                time.sleep(_LOOK_EVERY_S)
            self.take_hold(pid for pid, ticks in stopped if proc.is_same(pid, ticks))

    def kill(self, deadline: Deadline) -> None:
        """SIGKILL to all; back when all are gone."""
        for who in self.held:
            self._send(who, signal.SIGKILL)
        poll = select.poll()
        for fd in self.held.values():
            poll.register(fd, select.POLLIN)
        left = len(self.held)
        while left:
            for fd, _ in poll.poll(math.ceil(deadline.left_s() * 1000)):
                poll.unregister(fd)
                left -= 1

    def _take_hold(self, pid: int) -> None:
        with suppress(OSError, DriverError):
            who = proc.identity(pid)
            if who in self.held or not proc.is_alive(pid):
                return
            fd = os.pidfd_open(pid)
            self.stack.callback(os.close, fd)
            if proc.start_ticks(pid) == who[1]:
                self.held[who] = fd

    def _send(self, who: tuple[int, int], number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.held[who], number)
