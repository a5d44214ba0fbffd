"""Keep a running `criu dump` alive if the driver dies, since killing CRIU mid-dump kills the replica.

CRIU injects code into the replica's processes and removes it again; if CRIU is killed in between, the replica crashes.
So a dump, unlike a restore, outlives the driver. A guard process waits for it until the dump's deadline. If the driver
has died by then, the guard resumes the replica, as the next driver does: that one may have come too early, while CRIU
still had all processes stopped.
"""

from __future__ import annotations

import os
import signal

from restore_driver.host import proc
from restore_driver.host.process import close_all_but, die_with_parent, outlive_parent
from restore_driver.host.sigcont import continue_tree

_BEHIND_THE_DRIVER_S = 1.0
"""Added to the deadline: a living driver enforces it first."""


def begin(replica_pid: int, deadline_s: float) -> None:
    """Fork: become the guard and never return, or return in the child, which dies with the guard.

    Called in a forked child of the driver; `deadline_s` is the dump's.
    """
    driver = os.getppid()
    ticks = proc.start_ticks(replica_pid)
    child = os.fork()
    if not child:
        die_with_parent()
        return
    outlive_parent()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(deadline_s, 0.0) + _BEHIND_THE_DRIVER_S)
    close_all_but(())
    exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if os.getppid() != driver:
        continue_tree(replica_pid, ticks)
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)
