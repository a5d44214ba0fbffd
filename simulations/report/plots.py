"""The figures of the page as plain plotly dictionaries; nothing here knows HTML.

Three figures stand still (the frontier, GPU-hours by state, regret). The fourth, the timeline, is a
template: its traces name a series (`"series": "active"`) and the page's script fills in the numbers
of the row and target that the reader chose (`timeline.py` packs them). A colour that starts with `$`
is a variable of the style sheet, so that figures follow the light or dark scheme.

Colours are those of Okabe and Ito ("Color universal design", 2008), told apart with any common
colour blindness; a state of a GPU has the same colour in every figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simulations.report import derived
from simulations.report.derived import Standing
from simulations.report.labelling import label_places
from simulations.report.wording import count, number, percent
from simulations.results import GPU_STATES, UNHELD, Comparison, RunResult

Figure = dict[str, Any]

STATE_COLOURS = {
    "active": "#0072B2",
    "draining": "#999999",
    "starting": "#E69F00",
    "standby": "#56B4E9",
    "parked": "#CC79A7",
    "spare": "#009E73",
    "reclaiming": "#D55E00",
    "lent": "$lent",
    "absent": "$absent",
}

ZERO_MISSES_AT = 0.5
"""Where a row without misses stands on the logarithmic axis; its tick says 0."""

FRONTIER_WIDTH_PX, FRONTIER_HEIGHT_PX = 1000.0, 380.0
"""Size of the plotting area at which the labels are laid out."""

BAR_PX = 26


def frontier(comparison: Comparison) -> Figure:
    """GPU-hours held against misses (logarithmic), one point a row, and the Pareto line of the policies."""
    rows = sorted(comparison.rows, key=lambda r: (r is not derived.ours(comparison), r.held_gpu_hours, r.row))
    x_range, y_range = _x_range(rows), _y_range(rows)
    points_px = [_pixel(r, x_range, y_range) for r in rows]
    shown = label_places(points_px, [r.row for r in rows], FRONTIER_WIDTH_PX, FRONTIER_HEIGHT_PX)
    places = dict(zip((r.row for r in rows), shown, strict=True))
    front = derived.pareto_front(derived.policies(comparison))
    traces = [_front_line(front, x_range[1])] if front else []
    for kind, style in _KINDS.items():
        members = [r for r in rows if _kind(comparison, r) == kind]
        if members:
            traces.append(_points(kind, members, style, places))
    return {
        "data": traces,
        "layout": {
            "height": 460,
            "xaxis": {"title": {"text": "GPU-hours held"}, "range": list(x_range), "zeroline": False},
            "yaxis": {
                "title": {"text": "misses (requests, logarithmic)"},
                "type": "log",
                "range": list(y_range),
                **_miss_ticks(rows),
            },
            "legend": {"orientation": "h", "y": 1.1},
            "margin": {"l": 80, "r": 20, "t": 30, "b": 55},
            "hovermode": "closest",
        },
    }


_KINDS: dict[str, dict[str, Any]] = {
    "ours": {"symbol": "star", "size": 18, "color": "#D55E00"},
    "baseline, from restores": {"symbol": "circle", "size": 11, "color": "#0072B2"},
    "baseline, cold": {"symbol": "circle-open", "size": 11, "color": "#0072B2", "line": {"width": 2}},
    "variant of ours": {"symbol": "star-open", "size": 13, "color": "#D55E00"},
    "bound": {"symbol": "diamond", "size": 11, "color": "#009E73"},
}


def _kind(comparison: Comparison, run: RunResult) -> str:
    if run.bound:
        return "bound"
    if run is derived.ours(comparison):
        return "ours"
    if run.policy == derived.OUR_POLICY:
        return "variant of ours"
    return "baseline, cold" if run.starts_from == "cold" else "baseline, from restores"


def _points(kind: str, rows: Sequence[RunResult], style: dict[str, Any], places: dict[str, str]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": kind,
        "x": [round(r.held_gpu_hours, 4) for r in rows],
        "y": [max(r.misses, ZERO_MISSES_AT) for r in rows],
        "text": [r.row if places[r.row] else "" for r in rows],
        "textposition": [places[r.row] or "middle right" for r in rows],
        "hovertext": [_hover(r) for r in rows],
        "hoverinfo": "text",
        "marker": style,
        "cliponaxis": False,
    }


def _hover(run: RunResult) -> str:
    return (
        f"<b>{_plain(run.row)}</b><br>{number(run.held_gpu_hours)} GPU-hours held<br>"
        f"{count(run.misses)} misses ({percent(run.miss_share)})<br>"
        f"cost {number(run.cost_gpu_s / 3600)} GPU-hours"
    )


def _plain(text: str) -> str:
    """Escape a name for a label, in which Plotly reads a subset of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _front_line(front: Sequence[RunResult], right: float) -> Figure:
    """Return the best misses that a policy reached with so many GPU-hours or fewer: steps, not slopes."""
    x = [round(r.held_gpu_hours, 4) for r in front]
    y = [max(r.misses, ZERO_MISSES_AT) for r in front]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto line of the policies",
        "x": [*x, round(right, 4)],
        "y": [*y, y[-1]],
        "line": {"shape": "hv", "dash": "dot", "width": 1.5, "color": "$muted"},
        "hoverinfo": "skip",
    }


def _x_range(rows: Sequence[RunResult]) -> tuple[float, float]:
    held = [r.held_gpu_hours for r in rows] or [0.0]
    margin = 0.08 * (max(held) - min(held)) or 0.1 * max(held) or 1.0
    return max(min(held) - margin, 0.0), max(held) + 1.5 * margin


def _y_range(rows: Sequence[RunResult]) -> tuple[float, float]:
    """In powers of ten, as plotly wants the range of a logarithmic axis."""
    misses = [max(r.misses, ZERO_MISSES_AT) for r in rows] or [1.0]
    return math.log10(min(misses)) - 0.35, math.log10(max(misses)) + 0.35


def _miss_ticks(rows: Sequence[RunResult]) -> dict[str, Any]:
    low = min((max(r.misses, ZERO_MISSES_AT) for r in rows), default=1.0)
    highest = max((r.misses for r in rows), default=1)
    powers = [10**k for k in range(max(math.floor(math.log10(low)), 0), len(str(max(highest, 1))) + 1)]
    zero = [ZERO_MISSES_AT] if low == ZERO_MISSES_AT else []
    return {"tickvals": [*zero, *powers], "ticktext": ["0"] * len(zero) + [count(p) for p in powers]}


def _pixel(run: RunResult, x_range: tuple[float, float], y_range: tuple[float, float]) -> tuple[float, float]:
    across = (run.held_gpu_hours - x_range[0]) / (x_range[1] - x_range[0])
    up = (math.log10(max(run.misses, ZERO_MISSES_AT)) - y_range[0]) / (y_range[1] - y_range[0])
    return across * FRONTIER_WIDTH_PX, (1.0 - up) * FRONTIER_HEIGHT_PX


def gpu_hours_by_state(comparison: Comparison) -> Figure:
    """Stacked bars, one a row: what the held GPUs were doing. Lent GPUs are not held and not shown."""
    standings = derived.standings(comparison)
    traces = []
    for state in (s for s in GPU_STATES if s not in UNHELD):
        held = [s.run.gpu_seconds.get(state, 0.0) / 3600.0 for s in standings]
        if any(held):
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": state,
                    "x": [round(v, 4) for v in held],
                    "y": _bar_names(standings),
                    "marker": {"color": STATE_COLOURS[state]},
                    "hovertemplate": f"%{{y}}<br>{state}: %{{x:,.4~g}} GPU-hours<extra></extra>",
                }
            )
    return _bars(traces, len(standings), "stack", "GPU-hours held, by what the GPU was doing")


def regret(comparison: Comparison) -> Figure | None:
    """Cost above each bound, one group of bars a policy; None without any bound."""
    standings = [derived.standing(comparison, r) for r in derived.policies(comparison)]
    traces = []
    for bound, colour in ((derived.INFORMED, "#E69F00"), (derived.CLAIRVOYANT, "#0072B2")):
        values = [s.regret_gpu_s[bound] for s in standings]
        known = [v / 3600.0 for v in values if v is not None]
        if known and len(known) == len(values):
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": f"above {bound}",
                    "x": [round(v, 4) for v in known],
                    "y": _bar_names(standings),
                    "marker": {"color": colour},
                    "hovertemplate": f"%{{y}}<br>%{{x:,.4~g}} GPU-hours above {bound}<extra></extra>",
                }
            )
    title = "regret in GPU-hours: cost (misses priced in) above the bound"
    return _bars(traces, 2 * len(standings), "group", title) if traces else None


def _bar_names(standings: Sequence[Standing]) -> list[str]:
    return [_plain(s.run.row) for s in standings]


def _bars(traces: list[Figure], bars: int, mode: str, title: str) -> Figure:
    return {
        "data": traces,
        "layout": {
            "height": 140 + BAR_PX * max(bars, 2),
            "barmode": mode,
            "bargap": 0.25,
            "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed", "automargin": True, "title": {"text": ""}, "ticksuffix": "  "},
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
            "margin": {"l": 20, "r": 20, "t": 40, "b": 50},
        },
    }
