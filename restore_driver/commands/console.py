"""An attempt for human eyes: a line of progress while it runs, a table of phases when it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from restore_driver.wire.result import Result


class Progress:
    """Shows the phase at work on a terminal's standard error; silent elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._status = Status("", console=console) if console.is_terminal and not quiet else None

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def observe(self, event: str, phase: str) -> None:
        """Told of each phase's begin and end."""
        if self._status is not None and event != "end":
            self._status.update(f"undo {phase}" if event == "undo" else phase)


def print_result(result: Result) -> None:
    """The phases with their times and details, then one line on how it ended."""
    console = Console(soft_wrap=True)
    table = Table("phase", "ms", "details", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = "right"
    for phase in result.phases:
        table.add_row(phase.phase, f"{phase.took_s * 1e3:.1f}", ", ".join(_told(phase.details)))
    console.print(table)
    console.print(
        f"[bold]{result.outcome}[/bold] in {result.total_s:.3f} s, {result.unaccounted_s * 1e3:.1f} ms of it "
        "between the phases"
    )
    for name, value in result.answer.items():
        console.print(f"{name}: {value}")
    for sentence in result.warnings:
        console.print(f"[yellow]warning[/yellow]: {sentence}", highlight=False)
    if result.reason is not None:
        hint = f"; {result.hint}" if result.hint else ""
        console.print(f"[red]{result.reason}[/red] in {result.phase}: {result.detail}{hint}", highlight=False)
        for sentence in result.undo_errors:
            console.print(f"undo failed: {sentence}", highlight=False)
        if result.fallback:
            console.print(f"instead: {result.fallback}")


def _told(details: Mapping[str, Any]) -> Iterator[str]:
    """What a line of the table has room for; the JSON has all of it."""
    for name, value in details.items():
        if name == "checks":  # of the proof: what was looked at, all of it held
            yield from (check["what"] for check in value)
        elif isinstance(value, bool):
            yield name.replace("_", " ") if value else f"no {name.replace('_', ' ')}"
        elif isinstance(value, float) and name.endswith("_s"):
            yield f"{name.removesuffix('_s')} {value * 1e3:.1f} ms"
        elif isinstance(value, int) and name.endswith("bytes"):
            yield f"{name} {value:,}"
        elif value is not None and not isinstance(value, dict):
            yield f"{name} {value}"
