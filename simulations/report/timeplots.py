"""The timeline figure: five panels over one time axis, as a template for one row and one target.

From top to bottom: load and its forecast, replicas against demand, time to first token against the
SLO, misses, and the GPUs of the whole pool. The panels share the time axis, so that zooming into a
burst shows all five at that moment. See `plots.py` for the conventions.
"""

from __future__ import annotations

from typing import Any

from simulations.report.plots import STATE_COLOURS, Figure
from simulations.report.wording import setting
from simulations.results import GPU_STATES, Comparison

PANELS = ("load", "replicas", "latency", "misses", "pool")

PANEL_WEIGHTS = {"load": 1.0, "replicas": 1.2, "latency": 1.0, "misses": 0.6, "pool": 1.2}

PANEL_TITLES = {
    "load": "Load offered, and what was forecast for it",
    "replicas": "Replicas of this target, against demand",
    "latency": "Time to first token",
    "misses": "Misses",
    "pool": "GPUs of the whole pool, all targets",
}

AXIS_TITLES = {
    "load": "replicas' worth",
    "replicas": "replicas",
    "latency": "seconds (log)",
    "misses": "requests/min",
    "pool": "GPUs",
}

LATENCY_TICKS_S = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]

HEIGHT_PX = 1280
GAP = 0.05


def timeline_template(comparison: Comparison) -> Figure:
    """Traces that name their series, and the layout of the five panels."""
    horizon_s = next((r.series.forecast_horizon_s for r in comparison.rows if r.series is not None), 0.0)
    data = [
        *_load(horizon_s),
        *_replicas(),
        *_latency(comparison.slo_wait_s),
        *_misses(),
        *_pool(comparison),
    ]
    return {"data": data, "layout": _layout()}


def _load(horizon_s: float) -> list[Figure]:
    edge = {"width": 0}
    ahead = f"made {setting(horizon_s)} s before"
    return [
        _line("load", "forecast_low", "10%", line=edge, showlegend=False, hoverinfo="skip"),
        _line(
            "load",
            "forecast_high",
            f"forecast 10-90%, {ahead}",
            line=edge,
            fill="tonexty",
            fillcolor="$band",
            hoverinfo="skip",
        ),
        _line("load", "forecast_median", "forecast median", line={"color": "$blue", "width": 1.5}),
        _line("load", "demand", "offered", line={"color": "$ink", "width": 1.3}, extra="offered_rps"),
    ]


def _replicas() -> list[Figure]:
    # A warm replica is standby or parked; the results keep the two together.
    colours = {"active": "active", "starting": "starting", "warm": "standby", "draining": "draining"}
    stacked = [
        _stacked("replicas", s, "warm (standby, parked)" if s == "warm" else s, STATE_COLOURS[c])
        for s, c in colours.items()
    ]
    line = {"color": "$ink", "width": 1.3, "shape": "hv"}
    return [*stacked, _line("replicas", "demand", "demand", line=line)]


def _latency(slo_wait_s: float) -> list[Figure]:
    colours = {"ttft_p50": "#009E73", "ttft_p95": "$blue", "ttft_p99": "#D55E00"}
    lines = [
        _line("latency", series, series.removeprefix("ttft_"), line={"color": colour, "width": 1.2})
        for series, colour in colours.items()
    ]
    slo = _line(
        "latency",
        "constant",
        f"SLO: wait at most {setting(slo_wait_s)} s",
        line={"color": "$ink", "dash": "dash", "width": 1.5},
        hoverinfo="skip",
    )
    return [*lines, slo | {"value": slo_wait_s}]


def _misses() -> list[Figure]:
    return [
        _line(
            "misses",
            "misses_per_min",
            "misses",
            line={"color": "#D55E00", "width": 1, "shape": "hv"},
            fill="tozeroy",
            fillcolor="$missed",
            showlegend=False,
        )
    ]


def _pool(comparison: Comparison) -> list[Figure]:
    kept = {s for r in comparison.rows if r.series is not None for s in r.series.gpus}
    return [_stacked("pool", f"gpus.{s}", s, STATE_COLOURS[s]) for s in GPU_STATES if s in kept]


def _line(panel: str, series: str, name: str, **style: Any) -> Figure:
    axis = "" if panel == PANELS[0] else str(PANELS.index(panel) + 1)
    return {
        "type": "scatter",
        "mode": "lines",
        "series": series,
        "name": name,
        "yaxis": f"y{axis}",
        "legend": f"legend{axis}",
    } | style


def _stacked(panel: str, series: str, name: str, colour: str) -> Figure:
    return _line(
        panel,
        series,
        name,
        stackgroup=panel,
        stackgaps="infer zero",
        fillcolor=colour,
        line={"width": 0, "color": colour, "shape": "hv"},
    )


def _layout() -> Figure:
    layout: Figure = {
        "height": HEIGHT_PX,
        "xaxis": {"anchor": "y5", "title": {"text": "$time_axis"}},
        "margin": {"l": 80, "r": 20, "t": 45, "b": 55},
        "hovermode": "x unified",
        "annotations": [],
    }
    free = 1.0 - GAP * (len(PANELS) - 1)
    top = 1.0
    for i, panel in enumerate(PANELS):
        bottom = max(top - free * PANEL_WEIGHTS[panel] / sum(PANEL_WEIGHTS.values()), 0.0)
        number_ = "" if i == 0 else str(i + 1)
        layout[f"yaxis{number_}"] = {
            "domain": [round(bottom, 4), round(top, 4)],
            "title": {"text": AXIS_TITLES[panel]},
            "type": "log" if panel == "latency" else "linear",
            "rangemode": "tozero",
        }
        if panel == "latency":
            layout[f"yaxis{number_}"] |= {
                "tickvals": LATENCY_TICKS_S,
                "ticktext": [setting(s) for s in LATENCY_TICKS_S],
            }
        layout[f"legend{number_}"] = {
            "orientation": "h",
            "x": 1.0,
            "xanchor": "right",
            "y": round(top, 4),
            "yanchor": "bottom",
            "traceorder": "normal",
        }
        layout["annotations"].append(_panel_title(panel, top))
        top = bottom - GAP
    return layout


def _panel_title(panel: str, top: float) -> Figure:
    return {
        "text": f"<b>{PANEL_TITLES[panel]}</b>",
        "xref": "paper",
        "yref": "paper",
        "x": 0.0,
        "y": round(top, 4),
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 13},
    }
