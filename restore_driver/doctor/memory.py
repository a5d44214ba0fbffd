"""Check memory: huge pages for fast restores, available memory, and the limit of page-locked memory."""

from __future__ import annotations

import os
import resource

from restore_driver.doctor.findings import Answer, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.doctor.probe import SCRATCH, in_child, own_mounts
from restore_driver.doctor.space import LEAST_BYTES
from restore_driver.host.capabilities import effective
from restore_driver.host.hugepages import SWITCH, read_switch
from restore_driver.host.meminfo import available_memory_bytes
from restore_driver.host.mounts import mount

CAP_IPC_LOCK = 14


def huge_pages(machine: Machine) -> Answer:
    """Check the system's switch of transparent huge pages: its value, and that a restore may set it.

    It is opened and not written, not even with the same value: a restore may be changing it.
    """
    if not SWITCH.exists():
        return warning(
            "this kernel has no transparent huge pages: CRIU fills memory at 2 GB/s instead of 3 to 6",
            "CONFIG_TRANSPARENT_HUGEPAGE=y",
        )
    value = read_switch()
    try:
        os.close(os.open(SWITCH, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return warning(
            f"the switch is {value!r} and cannot be set: {error.strerror}; --huge-pages will be refused",
            "mount /sys read-write into the agent's container, or set `always` on the node",
        )
    more = "" if value == "always" else ", and a restore may set it to 'always' while it runs (--huge-pages)"
    return ok(f"the switch is {value!r}{more}")


def huge_tmpfs(machine: Machine) -> Answer:
    """Mount a tmpfs of huge pages, which `stage --in-memory` uses."""
    try:
        in_child("mounting a tmpfs of huge pages", _mount_huge_tmpfs, machine.patience_s)
    except OSError as error:
        return warning(
            f"no tmpfs with huge=always can be mounted: {error.strerror}", "keep images on a plain tmpfs, or on disk"
        )
    return ok("one with huge=always was mounted and unmounted")


def available(machine: Machine) -> Answer:
    """Check the available memory, into which a restored replica must fit."""
    free = available_memory_bytes()
    if free < LEAST_BYTES:
        return warning(
            f"{free:,} bytes are available, less than {LEAST_BYTES:,}", "end some processes, or use a larger node"
        )
    return ok(f"{free:,} bytes are available")


def lock_limit(machine: Machine) -> Answer:
    """Check the limit of page-locked memory: the weights holder page-locks whole models."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if CAP_IPC_LOCK in effective():
        return ok("CAP_IPC_LOCK: all memory may be page-locked")
    if soft == resource.RLIM_INFINITY:
        return ok("no limit")
    most = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    return warning(
        f"{soft:,} bytes may be page-locked (hard limit: {most}) and CAP_IPC_LOCK is missing: a weights holder started "
        "like this process may fail",
        "ulimit -l unlimited, LimitMEMLOCK=infinity, or add IPC_LOCK to its capabilities",
    )


def _mount_huge_tmpfs() -> None:
    own_mounts()
    mount("tmpfs", SCRATCH, "tmpfs", options="huge=always")
