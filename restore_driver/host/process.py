"""Run subprocesses with a deadline, each in a process group of its own that is killed as a whole when it is missed.

The child also dies with its parent (`PR_SET_PDEATHSIG`), so that a driver that is killed at any line leaves no CRIU
running.

Only the process itself is waited for, and never without a limit. `subprocess.Popen` waits for the exec as long as the
code before it takes (joining a frozen cgroup takes for ever), and `communicate` for every process that holds the pipe,
such as a daemon that the program started. So the fork is our own, and the output goes to a file in memory.
"""

from __future__ import annotations

import ctypes
import math
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.fork import fork
from restore_driver.host.jsonlines import decode, encode
from restore_driver.host.libc import libc
from restore_driver.host.messages import error_message, raise_error

_PR_SET_PDEATHSIG = 1
_SYS_CLOSE_RANGE = 436
_NOT_STARTED = 127
_SHOWN_BYTES = 1 << 20
"""Bytes of the output that are kept, from its end; a program in a container may write without bounds."""
_AFTER_KILL_S = 5.0
"""A killed process ends within milliseconds, or a second with much memory; one that is frozen or stuck in the kernel
stays, and is no longer waited for."""
_left_behind: set[int] = set()


@dataclass(frozen=True)
class Completed:
    """A subprocess that ended by itself within its deadline; `output` is its last 1 MiB, out and error together."""

    argv: tuple[str, ...]
    exit_code: int
    output: str
    took_s: float


class NotStarted(Exception):  # noqa: N818 - it says how far the child came
    """The code that runs in the child before the program (`enter`) failed there, as the text describes."""


def run(
    argv: Sequence[str],
    *,
    deadline_s: float,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    enter: Callable[[], None] | None = None,
) -> Completed:
    """Run a program to its end and return its output and exit code; an exit code never raises.

    Processes that the program leaves running in the background are not touched.

    Args:
        argv: program and arguments.
        deadline_s: seconds until the group is killed.
        env: environment; default: ours.
        pass_fds: descriptors that the program inherits.
        enter: runs in the child before the program (see `namespaces.Entry`).

    Raises:
        DriverError: DEADLINE_EXCEEDED once the deadline passes (the group is dead by then, unless it cannot be
            killed); REQUEST_INVALID when the program does not exist; any that `enter` raises.
        NotStarted: any other exception of `enter`.
        OSError: any other reason why the program could not be executed.
    """
    _reap_left_behind()
    began_s = time.monotonic()
    with ExitStack() as stack:
        output_fd, null_fd = os.memfd_create("output", os.MFD_CLOEXEC), os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        failure_fd, report_fd = os.pipe()
        for fd in (output_fd, null_fd, failure_fd):
            stack.callback(os.close, fd)
        environment = dict(os.environ if env is None else env)
        parent = os.getpid()
        child = fork()
        if not child:
            _become(
                streams=(null_fd, output_fd, output_fd),
                argv=argv,
                environment=environment,
                pass_fds=pass_fds,
                enter=enter,
                report_fd=report_fd,
                parent=parent,
            )
        os.close(report_fd)
        try:
            exit_code = _wait(child, deadline_s)
        except BaseException:
            _kill_and_reap(child)
            raise
        if exit_code is None:
            gone = _kill_and_reap(child)
            fate = "was killed" if gone else "cannot be killed: it is frozen, or stuck in the kernel"
            raise DriverError(Reason.DEADLINE_EXCEEDED, f"{argv[0]} did not end within {deadline_s:.3g} s and {fate}")
        failure = _written(failure_fd)
        if failure:
            _raise(argv[0], decode(failure))
        size_bytes = os.fstat(output_fd).st_size
        output = os.pread(output_fd, _SHOWN_BYTES, max(size_bytes - _SHOWN_BYTES, 0))
    return Completed(tuple(argv), exit_code, output.decode(errors="replace"), time.monotonic() - began_s)


def kill_group(group_id: int) -> None:
    """Send SIGKILL to a process group, stopped members included; a group that does not exist is no error."""
    try:
        os.killpg(group_id, signal.SIGKILL)
    except ProcessLookupError:
        return


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends.

    A change of user or of capabilities clears the setting (prctl(2)), so it must be followed by another call.
    """
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def outlive_parent() -> None:
    """Undo `die_with_parent`."""
    libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def close_all_but(fds: Sequence[int]) -> None:
    """Close every descriptor above standard error except those given; for a forked child."""
    first = 3
    for fd in (*sorted({fd for fd in fds if fd >= first}), 2**32):
        if fd > first:
            libc.syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(fd - 1), 0)
        first = fd + 1


def _become(  # noqa: PLR0913 - all that a child has between fork and exec
    *,
    streams: tuple[int, int, int],
    argv: Sequence[str],
    environment: Mapping[str, str],
    pass_fds: Sequence[int],
    enter: Callable[[], None] | None,
    report_fd: int,
    parent: int,
) -> NoReturn:
    """Run as the child from fork to exec; report a failure through `report_fd`, which exec closes."""
    entered = False
    try:
        os.setpgid(0, 0)
        die_with_parent()
        if os.getppid() != parent:
            os._exit(_NOT_STARTED)  # it died before the line above
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        if enter is not None:
            enter()
        entered = True
        close_all_but([*pass_fds, report_fd])
        for fd in pass_fds:
            os.set_inheritable(fd, True)  # noqa: FBT003 - it takes no keywords
        os.execvpe(argv[0], list(argv), dict(environment))  # noqa: S606 - a list of arguments, no shell
    except BaseException as error:  # noqa: BLE001 - reported to the parent; this process ends
        with suppress(BaseException):
            os.write(report_fd, _failure(error, entered=entered))
    finally:
        os._exit(_NOT_STARTED)


def _failure(error: BaseException, *, entered: bool) -> bytes:
    """Return the failure in the child as a message, short enough for a pipe to take it at once."""
    failure: dict[str, Any] = {"entered": entered, "text": f"{type(error).__name__}: {error}"[:1000]}
    if isinstance(error, OSError):
        failure["number"] = error.errno
    if isinstance(error, DriverError):
        failure.update(error_message(DriverError(error.reason, error.detail[:1000], error.hint[:500])))
    return encode(failure)


def _written(pipe_fd: int) -> bytes:
    """Return what a pipe holds now, without waiting."""
    os.set_blocking(pipe_fd, False)
    with suppress(BlockingIOError):
        return os.read(pipe_fd, 1 << 16)
    return b""


def _raise(program: str, failure: Mapping[str, Any]) -> NoReturn:
    raise_error(failure)
    if not failure["entered"]:
        raise NotStarted(f"before {program} could start: {failure['text']}")
    cause = OSError(failure.get("number") or 0, failure["text"], program)
    if isinstance(cause, FileNotFoundError | PermissionError):
        what = "does not exist" if isinstance(cause, FileNotFoundError) else "may not be run"
        raise DriverError(Reason.REQUEST_INVALID, f"{program} {what}", "install it or name its path") from cause
    raise cause


def _wait(child: int, deadline_s: float) -> int | None:
    """Return the exit code, negative for a signal as in `subprocess`; None when the deadline passed."""
    pidfd = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(math.ceil(max(deadline_s, 0.0) * 1000)):
            return None
    finally:
        os.close(pidfd)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:  # another thread of this process reaped it
        return 0


def _kill_and_reap(child: int) -> bool:
    """Kill the group and wait until its members are gone; return False when that took too long."""
    ends_s = time.monotonic() + _AFTER_KILL_S
    members = [pid for pid in proc.tree(child) if _group(pid) == child]
    kill_group(child)
    with suppress(ProcessLookupError):  # one that was killed before it made its group
        os.kill(child, signal.SIGKILL)
    gone = _wait(child, ends_s - time.monotonic()) is not None
    if not gone:
        _left_behind.add(child)
    while gone and any(proc.is_alive(pid) for pid in members) and time.monotonic() < ends_s:
        time.sleep(0.001)
    return gone


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _reap_left_behind() -> None:
    for child in tuple(_left_behind):
        try:
            gone = os.waitpid(child, os.WNOHANG)[0] == child
        except ChildProcessError:
            gone = True
        if gone:
            _left_behind.discard(child)
