"""Create and end placeholders on a machine without a container engine.

On Kubernetes the placeholder is the container of a pod, made by the kubelet; on a bare machine, in examples and in
tests it is a PID 1 of the driver's (`init.py`) in namespaces of its own.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Literal

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.fork import fork, kill
from restore_driver.host.mounts import MS_PRIVATE, MS_REC, mount
from restore_driver.host.namespaces import KINDS, unshare
from restore_driver.host.spawn import run_detached

_INIT = Path(__file__).with_name("init.py")
Network = Literal["host", "private"]


@dataclass(frozen=True)
class Placeholder:
    """A placeholder's PID 1, by its PID in this process's namespace."""

    pid: int

    def members(self) -> dict[int, int]:
        """Return its processes: PID inside -> PID here."""
        return proc.members(proc.namespace_id(self.pid, "pid"))

    def end(self) -> None:
        """Kills its PID 1, with which the kernel kills every process in it; idempotent."""
        kill(self.pid)


def create(
    *, network: Network = "host", root: Path = Path("/"), deadline_s: float = 10.0, output: int | None = None
) -> Placeholder:
    """Start a placeholder in pid, mount, ipc, uts and, if `private`, net namespaces of its own.

    Args:
        network: `host` shares this machine's network, so that a restored server can be reached directly; two clones of
            a snapshot need a `private` one each.
        root: directory that becomes its root; it needs Python at the same path as here, `proc` and `dev/shm`.
        deadline_s: seconds until it must be ready.
        output: descriptor that becomes its standard output and error, and so the restored replica's.

    Raises:
        DriverError: REQUEST_INVALID unless run as root; PLACEHOLDER_LOST if its namespaces cannot be made or it is not
            ready within the deadline.
    """
    if os.geteuid() != 0:
        raise DriverError(Reason.REQUEST_INVALID, "a placeholder needs root", "run it as root")
    flags = sum(flag for kind, flag in KINDS.items() if kind != "net" or network == "private")
    read_fd, write_fd = os.pipe()

    def isolate() -> None:
        unshare(flags)
        mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
        first = fork()
        if first:  # the child is PID 1; nobody here waits for it, this machine's init will
            os.write(write_fd, b"%d\n" % first)
            os._exit(0)

    interpreter = os.path.realpath(sys.executable)
    argv = [interpreter, "-I", "-S", str(_INIT), str(write_fd), str(root), network]
    try:
        run_detached(argv, isolate, (write_fd,), output)
    except OSError as error:
        os.close(read_fd)
        raise DriverError(
            Reason.PLACEHOLDER_LOST, f"a placeholder's namespaces cannot be made here: {error}"
        ) from error
    finally:
        os.close(write_fd)
    report = _read_report(read_fd, deadline_s)
    placeholder = Placeholder(int(report.split(b"\n")[0]))
    if not report.endswith(b"ready"):
        placeholder.end()
        raise DriverError(Reason.PLACEHOLDER_LOST, f"the placeholder's PID 1 was not ready within {deadline_s:g} s")
    return placeholder


def _read_report(read_fd: int, deadline_s: float) -> bytes:
    """Read the PID of PID 1 and its `ready`; stop at the pipe's end, or when nothing comes within the deadline."""
    with os.fdopen(read_fd, "rb") as lines:
        report = b""
        while not report.endswith(b"ready") and select([lines], [], [], deadline_s)[0]:
            more = os.read(lines.fileno(), 64)
            if not more:
                break
            report += more
    return report
