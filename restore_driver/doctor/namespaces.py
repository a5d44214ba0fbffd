"""Check the environment of a restored replica: namespaces, cgroups, overlay roots, shared memory."""

from __future__ import annotations

import os
from pathlib import Path

from restore_driver.doctor.findings import Answer, broken, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.doctor.probe import SCRATCH, in_child, own_mounts
from restore_driver.doctor.space import LEAST_BYTES
from restore_driver.host.disk import free_bytes
from restore_driver.host.mounts import mount, mount_points
from restore_driver.host.namespaces import KINDS, unshare

_SHARED_MEMORY = Path("/dev/shm")


def unshared(machine: Machine) -> Answer:
    """Create a namespace of each kind in a child that ends at once."""
    refused = in_child("creating namespaces", _unshare_each, machine.patience_s)
    if refused:
        return broken(
            "; ".join(f"{kind}: {why}" for kind, why in refused.items()),
            "run it privileged; `No space left` means a limit of /proc/sys/user/max_*_namespaces",
        )
    return ok(f"created one of each: {', '.join(KINDS)}")


def cgroups(machine: Machine) -> Answer:
    """Check that a restored replica can be moved into its placeholder's cgroups."""
    found = hierarchies(Path("/proc/self/mountinfo").read_text())
    if not found:
        return warning(
            "no cgroup hierarchy is mounted here: restored processes stay in the agent's, and end with it",
            "mount the node's /sys/fs/cgroup read-write into the agent's container",
        )
    kinds = {kind for kind, _, _ in found}
    kind = "hybrid v1 and v2" if len(kinds) == 2 else kinds.pop()
    closed = [name for _, name, path in found if not os.access(path / "cgroup.procs", os.W_OK)]
    if closed:
        return warning(
            f"{kind}; cannot be joined: {', '.join(closed)}: restored processes stay in the agent's there",
            "mount the node's /sys/fs/cgroup read-write into the agent's container",
        )
    return ok(f"{kind}; can be joined: {', '.join(name for _, name, _ in found)}")


def overlayfs(machine: Machine) -> Answer:
    """Mount an overlay, as containers' roots are; a replica's own files are captured from its upper layer."""
    try:
        in_child("mounting an overlay", _mount_overlay, machine.patience_s)
    except OSError as error:
        return warning(
            f"no overlay can be mounted: {error.strerror}; a replica's own files are captured from overlays only",
            "modprobe overlay on the node",
        )
    return ok("one was mounted and unmounted")


def shared_memory(machine: Machine) -> Answer:
    """Check the mount and the free space of /dev/shm, into which named shared memory is restored."""
    if _SHARED_MEMORY not in mount_points():
        return warning(
            f"{_SHARED_MEMORY} is not a mount point: named shared memory would lie on a disk", "mount a tmpfs there"
        )
    free = free_bytes(_SHARED_MEMORY)
    if free < LEAST_BYTES:
        return warning(
            f"{_SHARED_MEMORY} has {free:,} bytes free, less than {LEAST_BYTES:,}",
            "mount -o remount,size=SIZE /dev/shm; in a pod: an emptyDir with medium Memory there",
        )
    return ok(f"{_SHARED_MEMORY} has {free:,} bytes free")


def hierarchies(mountinfo: str) -> tuple[tuple[str, str, Path], ...]:
    """Return kind (`v1`, `v2`), name and mount point of each cgroup hierarchy in a mountinfo file."""
    found: dict[Path, tuple[str, str, Path]] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        path, kind = Path(before.split()[4]), after.split()[0]
        if kind in ("cgroup", "cgroup2"):
            found[path] = ("v1" if kind == "cgroup" else "v2", path.name, path)
    return tuple(found.values())


def _unshare_each() -> dict[str, str]:
    refused = {}
    for kind, flag in KINDS.items():
        try:
            unshare(flag)
        except OSError as error:
            refused[kind] = os.strerror(error.errno or 0)
    return refused


def _mount_overlay() -> None:
    own_mounts()
    for name in ("lower", "upper", "work", "merged"):
        (SCRATCH / name).mkdir()
    layers = ",".join(f"{name}dir={SCRATCH / name}" for name in ("lower", "upper", "work"))
    mount("overlay", SCRATCH / "merged", "overlay", options=layers)
