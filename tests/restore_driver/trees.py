"""Processes and their descendants: their end, and what the kernel says of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from restore_driver.host import proc


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to each; one that has ended is left out: with its parent, a zombie may go too."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_tree(root_pid: int) -> None:
    """SIGKILL to a process and all its descendants."""
    kill(proc.tree(root_pid))


def with_argument(word: str) -> list[int]:
    """Return the processes with this word in their command line; one that ends meanwhile has none."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def state(pid: int) -> str:
    """The letter that stands for it: R, S, T, Z, ..."""
    return _letter(Path(f"/proc/{pid}/stat"))


def is_stopped(pid: int) -> bool:
    """Return True while the process is stopped by a signal."""
    return state(pid) == "T"


def thread_states(pid: int) -> str:
    """A letter a thread, sorted."""
    return "".join(sorted(_letter(task / "stat") for task in Path(f"/proc/{pid}/task").iterdir()))


def descriptors(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _letter(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]
