"""Show the running phase on a terminal's standard error, with the standard library alone."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

_ERASE_LINE = "\r\x1b[K"


class Progress:
    """One line that each phase overwrites, erased at the end; silent where standard error is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = sys.stderr.isatty() and not quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show("")

    def observe(self, event: str, phase: str) -> None:
        """Show the phase that begins (`event` is `begin`) or the undo that runs (`undo`)."""
        if event != "end":
            self._show(f"undo {phase}" if event == "undo" else phase)

    def _show(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(_ERASE_LINE + text)
            sys.stderr.flush()
