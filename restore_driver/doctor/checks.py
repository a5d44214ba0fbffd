"""The table of checks: one row for each, grouped by subject, in the order of the report.

Checks of a subject run one after the other, since later ones depend on earlier ones; subjects run in parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from restore_driver.doctor import criu, daemons, gpus, kernel, memory, namespaces, privileges, storage
from restore_driver.doctor.findings import Answer
from restore_driver.doctor.machine import Machine


@dataclass(frozen=True)
class Check:
    """One row: name, function, and the action for which it needs root (empty if it does not)."""

    name: str
    run: Callable[[Machine], Answer]
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
        Check("namespaces", namespaces.unshared, "create namespaces"),
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
        Check("agent", daemons.agent, "query the agent"),
        Check("holder", daemons.holder),
    ),
    (
        Check("gpus", gpus.models),
        Check("nvidia-driver", gpus.driver),
        Check("cuda-helper", gpus.helper),
        Check("cuda-checkpoint", gpus.program),
        Check("mig", gpus.mig),
        Check("mps", gpus.mps),
        Check("persistence", gpus.persistence),
    ),
)
