"""Letting stopped processes go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from restore_driver.host import proc


def continue_all(pids: Iterable[int]) -> None:
    """SIGCONT to each; one that has ended is left out."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def continue_tree(root_pid: int, start_ticks: int) -> None:
    """SIGCONT to a process and all its descendants, as they are now; to nobody who has its PID later."""
    for pid in proc.tree(root_pid):
        if proc.is_same(root_pid, start_ticks):
            continue_all((pid,))
