"""Continue a stopped process tree, children before parents.

A parent that waits with WUNTRACED (su does) must not find its child stopped when it runs again: many stop themselves
then, and would stay so. Each process is identified by PID and start time: one that ends meanwhile must not keep the
others stopped, and a process that reuses its PID gets no signal.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from restore_driver.errors import DriverError
from restore_driver.host import proc


def continue_tree(root_pid: int, start_ticks: int) -> None:
    """Send SIGCONT to a process and all its descendants at this moment; to none if that process has ended.

    `start_ticks` is its start time, as `proc.start_ticks` returns it.
    """
    members = []
    for pid in proc.tree(root_pid):
        with suppress(DriverError):  # it ended meanwhile
            members.append(proc.identity(pid))
    if not proc.is_same(root_pid, start_ticks):
        return
    for pid, ticks in reversed(members):
        if proc.is_same(pid, ticks):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
