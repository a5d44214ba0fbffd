"""Call a Python function in another process's network namespace.

setns(2) of a network namespace is per thread, so each call gets a thread of its own, which is never used again; the
caller's thread, and all other threads of a resident agent, stay in theirs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from restore_driver.errors import DriverError, Reason
from restore_driver.host.namespaces import KINDS, setns

T = TypeVar("T")


def in_network_namespace(pid: int, function: Callable[[], T], deadline_s: float) -> T:
    """Call a function in the network namespace of a process; return what it returns and raise what it raises.

    Raises:
        DriverError: DEADLINE_EXCEEDED when it takes longer (its thread goes on: the function's own calls need
            deadlines, too); REPLICA_LOST when the process does not exist.
        RuntimeError: no thread can be started.
    """
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(Reason.REPLICA_LOST, f"process {pid} does not exist") from error
    visit = _Visit(fd, function)
    thread = threading.Thread(target=visit.run, name=f"netns-{pid}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        os.close(fd)
        raise
    thread.join(max(deadline_s, 0.0))
    if thread.is_alive():
        raise DriverError(Reason.DEADLINE_EXCEEDED, f"nothing came back from process {pid} within {deadline_s:.3g} s")
    return visit.outcome()


class _Visit(Generic[T]):
    """One call; its thread owns the descriptor, since it may run longer than the caller waits."""

    def __init__(self, fd: int, function: Callable[[], T]) -> None:
        self._fd, self._function = fd, function
        self._results: list[T] = []
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            try:
                if os.fstat(self._fd).st_ino != Path("/proc/thread-self/ns/net").stat().st_ino:
                    setns(self._fd, KINDS["net"])
            finally:
                os.close(self._fd)
            self._results.append(self._function())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error

    def outcome(self) -> T:
        if self._failure is not None:
            raise self._failure
        return self._results[0]
