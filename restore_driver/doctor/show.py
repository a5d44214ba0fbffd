"""An examination for human eyes: one line a check, and below it what would fix it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from restore_driver.doctor.findings import FATAL, Finding, Verdict, is_fit

_STYLES = {
    Verdict.OK: "green",
    Verdict.ABSENT: "dim",
    Verdict.WARNING: "yellow",
    Verdict.MISSING: "bold red",
    Verdict.BROKEN: "bold red",
}


def print_findings(findings: Sequence[Finding]) -> None:
    """The table, then one line on what it comes to."""
    console = Console(highlight=False)
    table = Table("verdict", "check", "detail, and what would fix it", box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        seen = Text(finding.detail)
        if finding.hint:
            seen.append(f"\n-> {finding.hint}", style=_STYLES[finding.verdict])
        table.add_row(Text(finding.verdict, style=_STYLES[finding.verdict]), finding.name, seen)
    console.print(table)
    console.print()
    console.print(Text(in_short(findings), style="bold"))


def in_short(findings: Sequence[Finding]) -> str:
    """The last line: fit or not, and what to fix first."""
    warnings = sum(finding.verdict is Verdict.WARNING for finding in findings)
    more = f"; {warnings} warning{'' if warnings == 1 else 's'}" if warnings else ""
    if is_fit(findings):
        return f"All that is needed is there{more}."
    names = ", ".join(finding.name for finding in findings if finding.verdict in FATAL)
    return f"Missing or broken: {names}{more}."
