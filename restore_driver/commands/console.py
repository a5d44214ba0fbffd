"""Draw tables and transfer bars on a terminal with rich; the only module of the driver that imports it.

rich takes long to import, so a command imports this module only once it runs and has something to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from restore_driver.doctor.findings import Finding, Verdict, summary
from restore_driver.store.units import format_bytes

if TYPE_CHECKING:
    from restore_driver.store.catalog import Catalog

_COLUMN_GAP = (0, 2, 0, 0)
_STYLES = {
    Verdict.OK: "green",
    Verdict.ABSENT: "dim",
    Verdict.WARNING: "yellow",
    Verdict.MISSING: "bold red",
    Verdict.BROKEN: "bold red",
}


class TransferBar:
    """A bar of bytes on standard error, the command line's `TransferProgress`; silent where that is no terminal."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total_bytes: int) -> None:
        """Set the number of bytes that the whole bar stands for."""
        if self._bar is not None:
            self._bar.update(self._task, total=total_bytes)

    def add(self, number_bytes: int) -> None:
        """Advance the bar by `number_bytes`."""
        if self._bar is not None:
            self._bar.advance(self._task, number_bytes)


def print_catalog(catalog: Catalog) -> None:
    """Print the snapshots of a store: name, digest, creation time in UTC, size on a node and in the store."""
    table = Table("name", "digest", "created", "size", "in the store", box=None, padding=_COLUMN_GAP)
    table.columns[3].justify = table.columns[4].justify = "right"
    for each in catalog.snapshots:
        created = datetime.fromtimestamp(each.created_unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        table.add_row(each.name, each.digest, created, format_bytes(each.bytes), format_bytes(each.stored_bytes))
    Console(soft_wrap=True).print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the findings of an examination, one row a check with its hint below it, then their summary."""
    console = Console(highlight=False)
    table = Table("verdict", "check", "detail, and what would fix it", box=None, padding=_COLUMN_GAP)
    for finding in findings:
        detail = Text(finding.detail)
        if finding.hint:
            detail.append(f"\n-> {finding.hint}", style=_STYLES[finding.verdict])
        table.add_row(Text(finding.verdict, style=_STYLES[finding.verdict]), finding.name, detail)
    console.print(table)
    console.print()
    console.print(Text(summary(findings), style="bold"))
