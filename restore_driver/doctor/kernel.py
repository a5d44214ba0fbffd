"""What the kernel offers: its version, /proc as CRIU reads it, and what may stand in the way of a tracer."""

from __future__ import annotations

import os
from pathlib import Path

from restore_driver.compat.rules import kernel_version
from restore_driver.doctor.findings import Answer, broken, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.doctor.probe import in_child
from restore_driver.host.fork import fork, wait_for_exit
from restore_driver.host.kernel_log import read_kernel_log
from restore_driver.host.namespaces import KINDS, unshare

OLDEST = (5, 6)
"""openat2(2), without which no file of an artifact is opened; clone3(2) with a chosen PID came just before, in 5.5."""
ARCHITECTURES = ("x86_64", "aarch64")

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_IO_URING = Path("/proc/sys/kernel/io_uring_disabled")
_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_MARK = 1000


def release(machine: Machine) -> Answer:
    """Version and architecture; and whether it is Linux at all."""
    system, banner = os.uname(), Path("/proc/version").read_text()
    if is_gvisor(system.release, banner, read_kernel_log()):
        return broken(
            f"{system.release} is gVisor's, no Linux kernel: CRIU can't run there",
            "run on the node's own kernel (runtime class runc), or on a node without the sandbox",
        )
    if system.machine not in ARCHITECTURES:
        return broken(f"{system.release} on {system.machine}", f"use a node with {' or '.join(ARCHITECTURES)}")
    if kernel_version(system.release) < OLDEST:
        return broken(
            f"{system.release} on {system.machine} is older than {OLDEST[0]}.{OLDEST[1]}", "boot a newer kernel"
        )
    return ok(f"{system.release} on {system.machine}")


def is_gvisor(system_release: str, banner: str, log: str) -> bool:
    """By what it says of itself: its name in newer releases, its birthday in those that call themselves 4.4.0."""
    if "gvisor" in f"{system_release} {banner}".lower() or "Starting gVisor" in log:
        return True
    return system_release == "4.4.0" and "Sun Jan 10 15:06:54 PST 2016" in banner


def proc_files(machine: Machine) -> Answer:
    """What CRIU reads of every process: its page map, the files it maps, its children."""
    failures = []
    for what, read in (("pagemap", _read_pagemap), ("map_files", _read_map_files), ("task/*/children", _read_children)):
        try:
            read()
        except OSError as error:
            failures.append(f"/proc/PID/{what}: {error.strerror}")
    if failures:
        return broken("; ".join(failures), "mount /proc without hidepid and subset; CONFIG_CHECKPOINT_RESTORE=y")
    return ok("pagemap, map_files and children can be read")


def last_pid(machine: Machine) -> Answer:
    """Tried in a pid namespace of its own: a PID is chosen, and the next process gets it."""
    try:
        got = in_child("the choice of a PID", _choose_pid, machine.patience_s)
    except OSError as error:
        return broken(f"{_LAST_PID}: {error.strerror}", "mount /proc/sys read-write (a privileged container has it so)")
    if got != _MARK + 1:
        return broken(f"{_LAST_PID} was set to {_MARK}, and the next PID was {got}", "CONFIG_CHECKPOINT_RESTORE=y")
    return ok("a PID that was chosen came")


def ptrace(machine: Machine) -> Answer:
    """Yama, where the kernel has it."""
    if not _PTRACE_SCOPE.exists():
        return ok("no Yama: capabilities alone decide")
    scope = _PTRACE_SCOPE.read_text().strip()
    if scope == "3":
        return broken(
            "kernel.yama.ptrace_scope is 3: nobody may trace anybody",
            "take the setting out of sysctl.d and reboot; it can't be lowered at run time",
        )
    return ok(f"kernel.yama.ptrace_scope is {scope}: root with CAP_SYS_PTRACE may trace")


def seccomp(machine: Machine) -> Answer:
    """A filter on ourselves is inherited by CRIU."""
    mode = _status_of("Seccomp")
    if mode == "0":
        return ok("no filter on this process")
    if mode is None:
        return warning("this kernel tells nothing of seccomp", "see that CONFIG_SECCOMP is what you want")
    return warning(
        f"this process runs under a seccomp filter (mode {mode}), and CRIU would, too: calls that it needs may fail",
        "run the agent with seccompProfile Unconfined (privileged does); `criu-check` shows what fails",
    )


def io_uring(machine: Machine) -> Answer:
    """CRIU can't dump a ring: best nobody can make one."""
    if not _IO_URING.exists():
        return warning(
            "no kernel.io_uring_disabled here (it came with 6.6): a replica that opens a ring can't be checkpointed",
            "forbid io_uring by the replicas' seccomp profile; container runtimes' default one does",
        )
    value = _IO_URING.read_text().strip()
    if value == "0":
        return warning(
            "kernel.io_uring_disabled is 0: a replica that opens a ring can't be checkpointed",
            "sysctl kernel.io_uring_disabled=2, or the replicas' seccomp profile (container runtimes' default one)",
        )
    return ok(f"kernel.io_uring_disabled is {value}: {'nobody' if value == '2' else 'no replica'} opens a ring")


def _read_pagemap() -> None:
    begin = Path("/proc/self/maps").read_text().partition("-")[0]
    page = int(begin, 16) // os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(8 * page)
        pagemap.read(8)


def _read_map_files() -> None:
    directory = Path("/proc/self/map_files")
    os.readlink(directory / os.listdir(directory)[0])


def _read_children() -> None:
    Path("/proc/thread-self/children").read_text()


def _choose_pid() -> int:
    """Runs in a forked child. Its own child is process 1 of a namespace, whose counter it alone sees."""
    unshare(KINDS["pid"])
    ours, theirs = os.pipe()
    first = fork()
    if not first:
        try:
            _LAST_PID.write_text(str(_MARK))
            second = fork()
            if not second:
                os._exit(0)
            os.write(theirs, f"0 {second}".encode())
        except OSError as error:
            os.write(theirs, f"{error.errno} 0".encode())
        os._exit(0)
    os.close(theirs)
    number, got = map(int, os.read(ours, 100).split())
    wait_for_exit(first)
    if number:
        raise OSError(number, os.strerror(number))
    return got


def _status_of(field: str) -> str | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return None
