"""Check the kernel: version, /proc as CRIU reads it, and settings that may block ptrace."""

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
"""The first with openat2(2), which opens every file of an artifact; clone3(2) with a chosen PID came in 5.5."""
ARCHITECTURES = ("x86_64", "aarch64")

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_IO_URING = Path("/proc/sys/kernel/io_uring_disabled")
_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_MARK = 1000


def release(machine: Machine) -> Answer:
    """Check version and architecture, and that it is a Linux kernel."""
    system, banner = os.uname(), Path("/proc/version").read_text()
    if is_gvisor(system.release, banner, read_kernel_log()):
        return broken(
            f"{system.release} is gVisor, not a Linux kernel: CRIU cannot run there",
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
    """Detect gVisor: by name in newer releases, by the fixed build date in the banner of those that report 4.4.0.

    Args:
        system_release: as uname(2) returns it.
        banner: content of /proc/version.
        log: kernel log, or empty if it cannot be read.
    """
    if "gvisor" in f"{system_release} {banner}".lower() or "Starting gVisor" in log:
        return True
    return system_release == "4.4.0" and "Sun Jan 10 15:06:54 PST 2016" in banner


def proc_files(machine: Machine) -> Answer:
    """Check the files of /proc that CRIU reads of every process: page map, mapped files, children."""
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
    """Choose a PID in a new pid namespace, and check that the next process gets it."""
    try:
        got = in_child("the choice of a PID", _choose_pid, machine.patience_s)
    except OSError as error:
        return broken(f"{_LAST_PID}: {error.strerror}", "mount /proc/sys read-write (a privileged container has it so)")
    if got != _MARK + 1:
        return broken(f"{_LAST_PID} was set to {_MARK}, and the next PID was {got}", "CONFIG_CHECKPOINT_RESTORE=y")
    return ok("the next process got the chosen PID")


def ptrace(machine: Machine) -> Answer:
    """Check Yama's ptrace_scope, where the kernel has it."""
    if not _PTRACE_SCOPE.exists():
        return ok("no Yama: capabilities alone decide")
    scope = _PTRACE_SCOPE.read_text().strip()
    if scope == "3":
        return broken(
            "kernel.yama.ptrace_scope is 3: ptrace is disabled for all processes",
            "remove the setting from sysctl.d and reboot; it cannot be lowered at run time",
        )
    return ok(f"kernel.yama.ptrace_scope is {scope}: root with CAP_SYS_PTRACE may trace")


def seccomp(machine: Machine) -> Answer:
    """Check that this process has no seccomp filter, which CRIU would inherit."""
    mode = _status_of("Seccomp")
    if mode == "0":
        return ok("no filter on this process")
    if mode is None:
        return warning("this kernel does not report seccomp", "check that CONFIG_SECCOMP is what you want")
    return warning(
        f"this process runs under a seccomp filter (mode {mode}), and CRIU would, too: calls that it needs may fail",
        "run the agent with seccompProfile Unconfined (privileged does); `criu-check` shows what fails",
    )


def io_uring(machine: Machine) -> Answer:
    """Check that replicas cannot create an io_uring, which CRIU cannot dump."""
    if not _IO_URING.exists():
        return warning(
            "no kernel.io_uring_disabled (added in 6.6): a replica that creates an io_uring cannot be checkpointed",
            "forbid io_uring by the replicas' seccomp profile; container runtimes' default one does",
        )
    value = _IO_URING.read_text().strip()
    if value == "0":
        return warning(
            "kernel.io_uring_disabled is 0: a replica that creates an io_uring cannot be checkpointed",
            "sysctl kernel.io_uring_disabled=2, or the replicas' seccomp profile (container runtimes' default one)",
        )
    processes = "no process" if value == "2" else "no unprivileged process outside kernel.io_uring_group"
    return ok(f"kernel.io_uring_disabled is {value}: {processes} can create an io_uring")


def _read_pagemap() -> None:
    begin = Path("/proc/self/maps").read_text().partition("-")[0]
    page = int(begin, 16) // os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(8 * page)
        pagemap.read(8)


def _read_map_files() -> None:
    next(Path("/proc/self/map_files").iterdir()).readlink()


def _read_children() -> None:
    Path("/proc/thread-self/children").read_text()


def _choose_pid() -> int:
    """Return the PID of a process created after choosing its predecessor, in a new pid namespace.

    Runs in a forked child, whose own child is process 1 of the namespace.
    """
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
