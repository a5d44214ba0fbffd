"""The report of a replay: one `Comparison` in, a table, a web page, JSON and CSV out.

Everything here reads finished results and decides nothing. `derived.py` computes what the results do
not say outright (regret, the Pareto front, pairs of rows that differ in one thing), `verdict.py` puts
it into sentences, `columns.py` says what the columns of the table are. From there, by output:
`table.py` (terminal and Markdown), `html.py` with `plots.py`, `timeline.py` and `assets/` (the page),
`jsonout.py` (the archive, which can be read back) and `csvout.py` (for a spreadsheet).
`docs/report.md` explains to a reader what the numbers mean.
"""

from __future__ import annotations

from simulations.report.csvout import write_csv
from simulations.report.html import render_html, write_html
from simulations.report.jsonout import SCHEMA_VERSION, ReportFormatError, from_json, to_json
from simulations.report.table import markdown_table, print_table
from simulations.report.verdict import verdict

__all__ = [
    "SCHEMA_VERSION",
    "ReportFormatError",
    "from_json",
    "markdown_table",
    "print_table",
    "render_html",
    "to_json",
    "verdict",
    "write_csv",
    "write_html",
]
