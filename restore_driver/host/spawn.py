"""Start resident child processes: programs that outlive the call that starts them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence

from restore_driver.host.process import kill_group


class Child:
    """A child that leads a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def await_end(self) -> None:
        """Kill the group and wait until the child has ended, without reaping it: its PID stays its own."""
        kill_group(self.pid)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def reap(self) -> int:
        """Wait for the child and return its exit code, negative for a signal."""
        return self._process.wait()


def spawn(argv: Sequence[str], env: Mapping[str, str], pass_fds: Sequence[int]) -> Child:
    """Start a program in a process group of its own, without standard input and output; standard error is inherited.

    Raises:
        OSError: the program cannot be started.
    """
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=dict(env),
        pass_fds=tuple(pass_fds),
        process_group=0,
    )
    return Child(process)


def run_detached(argv: Sequence[str], enter: Callable[[], None], pass_fds: Sequence[int], output: int | None) -> None:
    """Run a program in a session of its own and wait for the child.

    `enter` may fork and `_exit` before the exec, which leaves the grandchild running.

    Args:
        argv: program and arguments.
        enter: runs in the child before the program.
        pass_fds: descriptors that the program inherits.
        output: descriptor that becomes its standard output and error; None for /dev/null.

    Raises:
        OSError: the program cannot be started, or `enter` failed.
    """
    stream = subprocess.DEVNULL if output is None else output
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            preexec_fn=enter,  # noqa: PLW1509 - fork(2) and exec(2) with namespaces to enter in between
        )
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from error
    process.wait()
