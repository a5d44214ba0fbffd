"""What is looked at: one row a check, one group a subject, in the order of the report.

Checks of a subject go one after the other, since the later ones rest on the earlier; subjects go side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from restore_driver.doctor import criu, gpus, kernel, memory, namespaces, privileges, storage
from restore_driver.doctor import daemons as residents
from restore_driver.doctor.findings import Answer
from restore_driver.doctor.machine import Machine


@dataclass(frozen=True)
class Check:
    """One row: what it is called, who looks, and what only root may do of it."""

    name: str
    look: Callable[[Machine], Answer]
    root_to: str = ""


SUBJECTS: tuple[tuple[Check, ...], ...] = (
    (
        Check("root", privileges.root),
        Check("capabilities", privileges.capabilities),
        Check("sys-resource", privileges.sys_resource),
    ),
    (
        Check("kernel", kernel.release),
        Check("proc", kernel.proc_files, "read its page map"),
        Check("ns-last-pid", kernel.last_pid, "set it"),
        Check("ptrace", kernel.ptrace),
        Check("seccomp", kernel.seccomp),
        Check("io-uring", kernel.io_uring),
    ),
    (
        Check("criu", criu.program),
        Check("criu-check", criu.own_check, "run `criu check`"),
    ),
    (
        Check("namespaces", namespaces.unshared, "make namespaces"),
        Check("cgroups", namespaces.cgroups, "join cgroups"),
        Check("overlayfs", namespaces.overlayfs, "mount one"),
        Check("dev-shm", namespaces.shared_memory),
    ),
    (
        Check("huge-pages", memory.huge_pages, "set the switch"),
        Check("huge-tmpfs", memory.huge_tmpfs, "mount one"),
        Check("memory", memory.available),
        Check("memlock", memory.lock_limit),
    ),
    (
        Check("state", storage.state),
        Check("state-space", storage.state_space),
        Check("artifacts", storage.artifacts),
        Check("fs-verity", storage.verity),
    ),
    (
        Check("agent", residents.agent, "ask the agent"),
        Check("holder", residents.holder),
    ),
    (
        Check("gpus", gpus.cards),
        Check("nvidia-driver", gpus.driver),
        Check("cuda-helper", gpus.helper),
        Check("cuda-checkpoint", gpus.program),
        Check("mig", gpus.mig),
        Check("mps", gpus.mps),
        Check("persistence", gpus.persistence),
    ),
)
