"""fork(2), waitpid(2) and kill(2): processes that do not run a program of their own, or not at once.

Programs with a deadline run by `process.run`, resident ones by `spawn.spawn`.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings


def fork() -> int:
    """Fork; the child must only make system calls and then exec or `_exit`.

    Python 3.12 and newer warn of a fork in a process with threads. The children here use no lock that another thread
    may hold.
    """
    if sys.version_info < (3, 12):
        return os.fork()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def wait_for_exit(child: int) -> int:
    """Wait for a child without limit and return its exit code, negative for a signal.

    Raises:
        ChildProcessError: it is not a child of this process, or was waited for elsewhere.
    """
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(pid: int) -> None:
    """Send SIGKILL to a process; one that does not exist is no error.

    Raises:
        PermissionError: it belongs to another user.
    """
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
