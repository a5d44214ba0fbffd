"""A dump that has begun goes to its end, even when its driver is killed meanwhile.

CRIU works from within: it puts code of its own into the replica's processes and takes it out again. If CRIU is killed
in between, the replica dies of what is left. So a dump, unlike a restore, doesn't die with the driver. A guard waits
for it, until the dump's deadline; and when the driver is gone by then, the guard lets the replica go on, as the next
driver will: that one may have come too early, while CRIU still held all processes.
"""

from __future__ import annotations

import os
import signal

from restore_driver.host import proc
from restore_driver.host.process import close_all_but, die_with_parent, outlive_parent
from restore_driver.host.sigcont import continue_tree

_BEHIND_THE_DRIVER_S = 1.0
"""A driver that lives keeps the deadline itself."""


def begin(replica_pid: int, deadline_s: float) -> None:
    """Runs in a forked child of the driver: forks, stays behind as the guard, and returns in the grandchild, which dies
    with the guard."""
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
