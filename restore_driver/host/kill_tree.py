"""Kill a process tree completely: children forked during the kill and zombie thread-group leaders included.

All processes are stopped first, since a stopped process forks no more; then the tree is listed again. Signals go
through pidfds, opened while the start time still matches, so that a reused PID is never killed. A pidfd becomes
readable when the whole process has ended: its memory is free and its files (a GPU is one) are closed.
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

_STOP_DEADLINE_S = 0.2
"""A signal stops a process within microseconds, unless it is blocked in the kernel, where it does not fork either."""
_POLL_S = 0.0005

Listing = Callable[[], Iterable[int]]


def end_processes(pids: Iterable[int], deadline: Deadline, belonging: Listing | None = None) -> None:
    """Kill processes and their descendants; return when all are gone and no new ones belong to them.

    Args:
        pids: processes that are killed with all descendants.
        deadline: for their end; signals are sent even when it has passed.
        belonging: lists further processes, such as the members of a namespace. It is called again after each round,
            since the child of a parent that has ended cannot be found in the tree.

    Raises:
        DriverError: DEADLINE_EXCEEDED when one does not end.
    """
    roots: Iterable[int] = pids
    while True:
        ending = _Ending(belonging)
        with ending.stack:
            ending.hold(roots)
            if not ending.held:
                return
            ending.stop()
            ending.kill(deadline)
        if belonging is None:
            return
        roots = ()


class _Ending:
    """One round; `stack` owns the pidfds of the processes in `held`."""

    def __init__(self, belonging: Listing | None) -> None:
        self.stack = ExitStack()
        self.held: dict[tuple[int, int], int] = {}
        self._belonging = belonging

    def hold(self, roots: Iterable[int]) -> None:
        """Open pidfds of these processes, of those that belong to them, and of all descendants at this moment."""
        listed = (*roots, *(self._belonging() if self._belonging is not None else ()))
        for pid in dict.fromkeys(member for root in listed for member in proc.tree(root)):
            self._hold(pid)

    def stop(self) -> None:
        """Stop all processes, and those that they forked meanwhile."""
        ends_s = time.monotonic() + _STOP_DEADLINE_S
        stopped: set[tuple[int, int]] = set()
        while fresh := self.held.keys() - stopped:
            for process in fresh:
                self._send(process, signal.SIGSTOP)
            stopped |= fresh
            while any(proc.is_busy(pid) for pid, _ in stopped) and time.monotonic() < ends_s:
                time.sleep(_POLL_S)
            self.hold(pid for pid, ticks in stopped if proc.is_same(pid, ticks))

    def kill(self, deadline: Deadline) -> None:
        """Kill all processes, and return when all are gone."""
        for process in self.held:
            self._send(process, signal.SIGKILL)
        poll = select.poll()
        for fd in self.held.values():
            poll.register(fd, select.POLLIN)
        left = len(self.held)
        while left:
            for fd, _ in poll.poll(math.ceil(deadline.left_s() * 1000)):
                poll.unregister(fd)
                left -= 1

    def _hold(self, pid: int) -> None:
        with suppress(OSError, DriverError):
            process = proc.identity(pid)
            if process in self.held or not proc.is_alive(pid):
                return
            fd = os.pidfd_open(pid)
            self.stack.callback(os.close, fd)
            if proc.start_ticks(pid) == process[1]:
                self.held[process] = fd

    def _send(self, process: tuple[int, int], number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.held[process], number)
