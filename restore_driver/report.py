"""An attempt for human eyes: a line of progress while it runs, a table of phases when it ended."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.table import Table

from restore_driver.sequence import Result


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
        details = ", ".join(f"{name} {value}" for name, value in phase.details.items() if not isinstance(value, dict))
        table.add_row(phase.phase, f"{phase.took_s * 1e3:.1f}", details)
    console.print(table)
    console.print(
        f"[bold]{result.outcome}[/bold] in {result.total_s:.3f} s, {result.unaccounted_s * 1e3:.1f} ms of it "
        "between the phases"
    )
    for name, value in result.answer.items():
        console.print(f"{name}: {value}")
    if result.reason is not None:
        mend = f"; {result.mend}" if result.mend else ""
        console.print(f"[red]{result.reason}[/red] in {result.phase}: {result.detail}{mend}", highlight=False)
        for sentence in result.undo_errors:
            console.print(f"undo failed: {sentence}", highlight=False)
        if result.fallback:
            console.print(f"instead: {result.fallback}")
