"""Subprocesses with a deadline: each in a process group of its own, which is killed whole on a miss.

The child also dies with its parent (`PR_SET_PDEATHSIG`), so that a driver killed at any line leaves no CRIU
working behind its back.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from restore_driver.errors import DriverError, Reason

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Completed:
    """A subprocess that ended by itself within its deadline."""

    argv: tuple[str, ...]
    exit_code: int
    output: str
    took_s: float


def run(
    argv: Sequence[str],
    *,
    deadline_s: float,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    enter: Callable[[], None] | None = None,
) -> Completed:
    """Runs `argv` to its end, standard output and error together; never raises for an exit code.

    `enter` runs in the child before the program does (see `namespaces.Entry`).

    Raises:
        DriverError: DEADLINE_EXCEEDED once the deadline passes (the group is dead by then);
            REQUEST_INVALID when the program does not exist.
    """
    began_s = time.monotonic()
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            pass_fds=tuple(pass_fds),
            process_group=0,
            preexec_fn=lambda: _before_exec(enter),
        )
    except (FileNotFoundError, PermissionError) as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else "may not be run"
        raise DriverError(Reason.REQUEST_INVALID, f"{argv[0]} {what}", "install it or name its path") from error
    try:
        output, _ = child.communicate(timeout=max(deadline_s, 0.0))
    except subprocess.TimeoutExpired:
        kill_group(child.pid)
        child.communicate()
        raise DriverError(
            Reason.DEADLINE_EXCEEDED, f"{argv[0]} did not end within {deadline_s:.3g} s and was killed"
        ) from None
    except BaseException:
        kill_group(child.pid)
        child.communicate()
        raise
    return Completed(tuple(argv), child.returncode, output.decode(errors="replace"), time.monotonic() - began_s)


def kill_group(group_id: int) -> None:
    """SIGKILL to a whole process group, stopped members too; a group that is gone is no error."""
    try:
        os.killpg(group_id, signal.SIGKILL)
    except ProcessLookupError:
        return


def _before_exec(enter: Callable[[], None] | None) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if enter is not None:
        enter()
