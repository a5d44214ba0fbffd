"""Check privileges: the effective user and its capabilities."""

from __future__ import annotations

import os

from restore_driver.doctor.findings import Answer, missing, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.host.capabilities import CAP_SYS_RESOURCE, effective

_PRIVILEGED = "run it privileged (securityContext.privileged: true), or add them"

CAP_CHECKPOINT_RESTORE = 40
CAP_SYS_ADMIN = 21
NEEDED = {
    0: ("CAP_CHOWN", "the image's files are given to another user"),
    1: ("CAP_DAC_OVERRIDE", "files of the replica's user are read and written"),
    3: ("CAP_FOWNER", "modes and times of its files are restored"),
    5: ("CAP_KILL", "its processes are stopped and continued"),
    6: ("CAP_SETGID", "its groups are restored"),
    7: ("CAP_SETUID", "its user is restored"),
    8: ("CAP_SETPCAP", "its bounding set is restored"),
    12: ("CAP_NET_ADMIN", "TCP sockets are put into repair mode, a private loopback is brought up"),
    18: ("CAP_SYS_CHROOT", "its mount namespace is entered"),
    19: ("CAP_SYS_PTRACE", "its memory is read and written"),
    21: ("CAP_SYS_ADMIN", "namespaces are entered, file systems mounted, PIDs chosen"),
}
"""Number -> name and purpose. CAP_CHECKPOINT_RESTORE is not needed: CAP_SYS_ADMIN includes it."""


def root(machine: Machine) -> Answer:
    """Check that the effective user is root."""
    if machine.is_root:
        return ok("user 0")
    return missing(
        f"user {os.geteuid()}, not root: some checks below were skipped", "run it as the user that will restore: root"
    )


def capabilities(machine: Machine) -> Answer:
    """Check the capabilities that every attempt needs."""
    held = effective()
    lacking = [about for number, about in NEEDED.items() if number not in held]
    if lacking:
        return missing("; ".join(f"{name} is missing: {why}" for name, why in lacking), _PRIVILEGED)
    if CAP_CHECKPOINT_RESTORE not in held:
        return ok(f"all {len(NEEDED)} needed; CAP_CHECKPOINT_RESTORE is missing, CAP_SYS_ADMIN includes it")
    return ok(f"all {len(NEEDED)} needed, and CAP_CHECKPOINT_RESTORE")


def sys_resource(machine: Machine) -> Answer:
    """Check CAP_SYS_RESOURCE, which nested containers and hardened nodes lack; the driver then dumps differently."""
    if CAP_SYS_RESOURCE in effective():
        return ok("CAP_SYS_RESOURCE is present: root dumps replicas of any user")
    return warning(
        "CAP_SYS_RESOURCE is missing: a non-root replica is dumped with `criu --unprivileged` under its own user, and "
        "only if all of its processes belong to that user; resource limits cannot be raised",
        "nothing, or add SYS_RESOURCE to the agent's capabilities",
    )
