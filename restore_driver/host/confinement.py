"""Confine a forked child to another process's view of the machine before it executes that process's program."""

from __future__ import annotations

import os

from restore_driver.host.capabilities import Rights, forbid_new_privileges


def enter_root(root_fd: int, cwd_fd: int, rights: Rights) -> None:
    """Change root and working directory and take on a process's rights; without root, change the directory only.

    Runs in a forked child. Import nothing after this call: modules would come from the other root.

    Raises:
        OSError: any error of chroot(2), fchdir(2), or of the calls that change users and capabilities.
    """
    if os.geteuid() != 0:
        os.fchdir(cwd_fd)
        forbid_new_privileges()
        return
    os.fchdir(root_fd)
    os.chroot(".")
    os.fchdir(cwd_fd)
    rights.take_on()
