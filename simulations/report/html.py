"""The report as one web page that needs nothing but itself.

plotly.js, the style sheet, the script and all numbers are inlined, and a content security policy
forbids the page to load anything, so that a report opened years later, or without a network, shows
what it showed on the first day. The figures are in `plots.py` and `timeplots.py`, their data in
`timeline.py`, the text around them in `sections.py`, the behaviour in `assets/report.js`.
"""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from simulations.report import plots
from simulations.report.sections import first_shown, sections
from simulations.report.timeline import timelines
from simulations.report.timeplots import timeline_template
from simulations.results import Comparison

CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


def write_html(comparison: Comparison, path: Path) -> None:
    """Write the page to `path` as UTF-8, below 8 MB; equal comparisons give equal bytes."""
    path.write_text(render_html(comparison), encoding="utf-8", newline="\n")


def render_html(comparison: Comparison) -> str:
    """Return the whole page as a string."""
    block = timelines(comparison)
    return _PAGE.format(
        policy=CONTENT_POLICY,
        title=escape(comparison.title),
        style=_asset("report.css"),
        body="\n".join(sections(comparison, block)),
        plotly=_plotly_js(),
        figures=_for_script(json.dumps(_figure_block(comparison), separators=(",", ":"), allow_nan=False)),
        timelines=_for_script(block.as_json()),
        script=_asset("report.js"),
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="figures">{figures}</script>
<script type="application/json" id="timelines">{timelines}</script>
<script>{plotly}</script>
<script>
{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("simulations.report").joinpath("assets", name).read_text(encoding="utf-8")


def _plotly_js() -> str:
    return resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def _for_script(json_text: str) -> str:
    """JSON that cannot end the script element or open a comment, whatever a name contains."""
    return json_text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _figure_block(comparison: Comparison) -> dict[str, Any]:
    still = {"frontier": plots.frontier(comparison), "gpu-hours": plots.gpu_hours_by_state(comparison)}
    regret = plots.regret(comparison)
    if regret is not None:
        still["regret"] = regret
    return {"still": still, "timeline": timeline_template(comparison), "row": first_shown(comparison)}
