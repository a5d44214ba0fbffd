"""Keep a running `criu dump` alive if the driver dies, since killing CRIU in mid-dump kills the replica.

CRIU injects code into the replica's processes and removes it at the end. If CRIU is killed in between, the replica
dies of the code that is left. So a dump, unlike a restore, does not die with the driver: a guard process waits for it
until the dump's deadline. If the driver is gone by then, the guard sends the replica SIGCONT. The next driver does so
too, but may have done it too early, while CRIU still held the processes.
"""

from __future__ import annotations

import os
import signal

from restore_driver.host import proc
from restore_driver.host.fork import fork, wait_for_exit
from restore_driver.host.process import close_all_but, die_with_parent, outlive_parent
from restore_driver.host.sigcont import continue_tree

_BEHIND_THE_DRIVER_S = 1.0
"""Margin after the deadline: a living driver enforces the deadline itself."""


def begin(replica_pid: int, deadline_s: float) -> None:
    """Fork once more within a forked child of the driver: stay behind as the guard, and return in the grandchild.

    The grandchild dies with the guard, and the guard by SIGALRM soon after the deadline.

    Raises:
        DriverError: REPLICA_LOST when the replica's process does not exist.
    """
    driver = os.getppid()
    ticks = proc.start_ticks(replica_pid)
    child = fork()
    if not child:
        die_with_parent()
        return
    outlive_parent()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(deadline_s, 0.0) + _BEHIND_THE_DRIVER_S)
    close_all_but(())
    exit_code = wait_for_exit(child)
    if os.getppid() != driver:
        continue_tree(replica_pid, ticks)
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)
