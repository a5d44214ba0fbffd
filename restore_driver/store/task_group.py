"""A fail-fast task group: the first exception stops the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait


class StoppedError(Exception):
    """Raised within a task because another one failed; never raised to the caller of `run`."""


class TaskGroup:
    """Threads that share a stop flag, which they check between steps."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def raise_if_stopped(self) -> None:
        """Check the stop flag; tasks call it between two steps.

        Raises:
            StoppedError: another task failed, or the run was interrupted.
        """
        if self._stop.is_set():
            raise StoppedError

    def run(self, tasks: Iterable[Callable[[], None]], workers: int) -> None:
        """Run all tasks in `workers` threads and wait for all, also if one fails: none runs once this returns.

        Raises:
            Exception: the first that a task raised.
        """
        with ThreadPoolExecutor(max_workers=workers) as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # Ctrl-C
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
            failed = [future.exception() for future in done if not future.cancelled() and future.exception()]
            if failed:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                errors = [future.exception() for future in futures if future.done() and not future.cancelled()]
                raise next(error for error in (*failed, *errors) if error and not isinstance(error, StoppedError))
