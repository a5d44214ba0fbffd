"""Letting a stopped tree of processes go on.

The deepest first: a parent that waits with WUNTRACED (su and the like do) must not find its child stopped when it runs
again; many stop themselves then, and nobody would wake them. Each by PID and start time: one that ends as it wakes must
not keep the others stopped, and whoever has its PID later is left alone.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from restore_driver.errors import DriverError
from restore_driver.host import proc


def continue_tree(root_pid: int, start_ticks: int) -> None:
    """SIGCONT to a process and all its descendants, as they are now; to nobody if that process is gone."""
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
