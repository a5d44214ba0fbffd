"""Many tasks side by side, of which the first that fails ends all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait


class Stopped(Exception):
    """Raised within a task because another one failed; never seen outside."""


class Crew:
    """Workers who look at one flag."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def go_on(self) -> None:
        """Called by tasks between two steps.

        Raises:
            Stopped: when another one failed, or the crew was told to stop.
        """
        if self._stop.is_set():
            raise Stopped

    def run(self, tasks: Iterable[Callable[[], None]], workers: int) -> None:
        """Runs all and waits for all, also when one fails: nothing writes any more when this returns.

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
                raise next(error for error in (*failed, *errors) if error and not isinstance(error, Stopped))
