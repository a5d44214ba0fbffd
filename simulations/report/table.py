"""The comparison as a table: for a terminal (rich) and for a README (Markdown).

Policies stand in the order given, bounds below a line of their own, our row is marked. What each
column means follows as a legend. The columns themselves are in `columns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulations.report import derived
from simulations.report.columns import COST_GROUP, ROW_GROUP, SERVICE_GROUP, Column, columns
from simulations.report.derived import Standing
from simulations.report.wording import percent, setting
from simulations.results import Comparison

OUR_MARK = "▸ "
"""Says which row is ours where there is no colour."""


def print_table(comparison: Comparison, console: Console) -> None:
    """Print the table and its legend; on a console too narrow for one table, two of them.

    Lines are never cut: a console narrower than the half tables wraps the headings first.
    """
    shown = columns(comparison)
    console.print(Text(comparison.title, style="bold"))
    console.print(Text(_subtitle(comparison), style="dim"))
    whole = _table(comparison, shown)
    # Measured on a console without an edge, or the answer is never more than the width there is.
    if whole.__rich_measure__(console, console.options.update(max_width=1000)).minimum <= console.width:
        console.print(whole)
    else:
        for group in (COST_GROUP, SERVICE_GROUP):
            console.print(_table(comparison, [c for c in shown if c.group in (ROW_GROUP, group)]))
    console.print(_legend(shown))


def _subtitle(comparison: Comparison) -> str:
    return (
        f"SLO: {percent(comparison.slo_share)} of requests wait at most {setting(comparison.slo_wait_s)} s; "
        f"a miss costs {setting(comparison.miss_cost_gpu_s)} GPU-seconds; seed {comparison.seed}"
    )


def _table(comparison: Comparison, shown: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in shown:
        unit = f"\n{column.unit}" if column.unit else ""
        heading = column.heading.replace(" ", "\n") if column.numeric else column.heading
        side: Literal["left", "right"] = "right" if column.numeric else "left"
        table.add_column(heading + unit, justify=side, no_wrap=True, vertical="bottom")
    us = derived.ours(comparison)
    last_policy = len(derived.policies(comparison)) - 1
    for i, standing in enumerate(derived.standings(comparison)):
        is_ours = standing.run is us
        style = "bold cyan" if is_ours else "italic dim" if standing.run.bound else ""
        table.add_row(*_cells(shown, standing, is_ours=is_ours), style=style, end_section=i == last_policy)
    return table


def _cells(shown: Sequence[Column], standing: Standing, *, is_ours: bool) -> list[Text]:
    cells = [Text(c.shown(standing)) for c in shown]
    if is_ours:
        cells[0] = Text(OUR_MARK) + cells[0]
    elif standing.run.bound:
        cells[0].append("" if "bound" in standing.run.row else " (bound)")
    return cells


def _legend(shown: Sequence[Column]) -> Table:
    legend = Table.grid(padding=(0, 2, 0, 0))
    legend.add_column(style="dim", no_wrap=True)
    legend.add_column(style="dim")
    for column in shown:
        legend.add_row(Text(column.title), Text(column.meaning))
    legend.add_row(Text(OUR_MARK.strip()), Text("our row"))
    legend.add_row(Text("(bound)"), Text("knows what no policy can know: a yardstick, not a rival"))
    return legend


def markdown_table(comparison: Comparison) -> str:
    """Return the same table in GitHub's Markdown, ours in bold, bounds in italics at the end; ends in a newline."""
    shown = columns(comparison)
    us = derived.ours(comparison)
    lines = [
        _markdown_line([c.title for c in shown]),
        _markdown_line(["---:" if c.numeric else "---" for c in shown]),
    ]
    for standing in derived.standings(comparison):
        mark = "**" if standing.run is us else "*" if standing.run.bound else ""
        lines.append(_markdown_line([f"{mark}{_escaped(c.shown(standing))}{mark}" for c in shown]))
    return "\n".join(lines) + "\n"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("*", "\\*")
