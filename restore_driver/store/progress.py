"""The port of transfer progress, implemented by the command line's bar; calls may come from any thread."""

from __future__ import annotations

from typing import Protocol


class TransferProgress(Protocol):
    """Receives the progress of one push or stage, in bytes; must not raise."""

    def expect(self, total_bytes: int) -> None:
        """Note how many bytes there will be in all."""
        ...

    def add(self, number_bytes: int) -> None:
        """Note that so many more bytes are done, or were there already."""
        ...
