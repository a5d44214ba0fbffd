"""The page's table of every row and target: who was served how, and on what.

The comparison table sums over targets; here a target that a row neglects cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from simulations.report import derived
from simulations.report.wording import count, number, percent, seconds
from simulations.results import Comparison, RunResult, TargetResult


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    key: float | str
    kind: str = "number"


@dataclass(frozen=True, slots=True)
class _Heading:
    name: str
    unit: str
    cell: Callable[[RunResult, TargetResult, float], _Cell]
    word: bool = False


def target_table(comparison: Comparison) -> str:
    """Return a sortable HTML table, rows in the order given, bounds in a body of their own."""
    us = derived.ours(comparison)
    heads = "".join(
        f'<th scope="col" class="{"word" if h.word else "number"}"><button type="button">{h.name}'
        f"{f'<small>{h.unit}</small>' if h.unit else ''}</button></th>"
        for h in _HEADINGS
    )
    bodies = []
    for name, runs in (("policies", derived.policies(comparison)), ("bounds", derived.bounds(comparison))):
        lines = "".join(_line(r, t, comparison.slo_share, is_ours=r is us) for r in runs for t in r.targets)
        if lines:
            bodies.append(f'<tbody class="{name}">{lines}</tbody>')
    return (
        f'<div class="scroll tall"><table class="sortable" id="targets"><thead><tr>{heads}</tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def _line(run: RunResult, target: TargetResult, share: float, *, is_ours: bool) -> str:
    cells = []
    for heading in _HEADINGS:
        cell = heading.cell(run, target, share)
        kind = "word" if heading.word else cell.kind
        cells.append(table_cell(kind, cell.key, cell.text))
    return table_line(cells, is_ours=is_ours)


def table_cell(kind: str, key: float | str, text: str) -> str:
    """Return a cell of class `kind`; `key` is what it sorts by, and an unknown key (NaN) sorts last."""
    known = key if isinstance(key, str) else f"{key:.9g}"
    value = "" if known == "nan" else known
    return f'<td class="{kind}" data-v="{escape(value)}">{escape(text)}</td>'


def table_line(cells: list[str], *, is_ours: bool) -> str:
    """Return a row of the HTML table."""
    mark = ' class="ours"' if is_ours else ""
    return f"<tr{mark}>{''.join(cells)}</tr>"


def _slo(target: TargetResult, share: float) -> _Cell:
    met = derived.meets(target.misses, target.requests, share)
    return _Cell("yes", 1.0, "number yes") if met else _Cell("no", 0.0, "number no")


def _starts(target: TargetResult) -> _Cell:
    kinds = [k for k in derived.START_KINDS if target.starts.get(k, 0)]
    text = ", ".join(f"{count(target.starts[k])} {k}" for k in kinds) or "none"
    return _Cell(text, text)


def _share(target: TargetResult) -> float:
    return target.misses / target.requests if target.requests else 0.0


def _time(values: dict[str, float], quantile: str) -> _Cell:
    value = values.get(quantile, float("nan"))
    return _Cell(seconds(value), value)


def _gpu_hours(target: TargetResult) -> float:
    return sum(target.gpu_seconds.values()) / 3600.0


_HEADINGS = (
    _Heading("row", "", lambda r, t, s: _Cell(r.row, r.row), word=True),
    _Heading("target", "", lambda r, t, s: _Cell(t.name, t.name), word=True),
    _Heading("service", "", lambda r, t, s: _Cell(t.service, t.service), word=True),
    _Heading("requests", "", lambda r, t, s: _Cell(count(t.requests), t.requests)),
    _Heading("misses", "", lambda r, t, s: _Cell(count(t.misses), t.misses)),
    _Heading("missed", "%", lambda r, t, s: _Cell(percent(_share(t)), _share(t))),
    _Heading("SLO", "", lambda r, t, s: _slo(t, s)),
    _Heading("TTFT p50", "s", lambda r, t, s: _time(dict(t.ttft_s), "p50")),
    _Heading("TTFT p95", "s", lambda r, t, s: _time(dict(t.ttft_s), "p95")),
    _Heading("TTFT p99", "s", lambda r, t, s: _time(dict(t.ttft_s), "p99")),
    _Heading("ITL mean", "s", lambda r, t, s: _Cell(seconds(t.itl_mean_s), t.itl_mean_s)),
    _Heading("mean", "replicas", lambda r, t, s: _Cell(number(t.replicas_mean), t.replicas_mean)),
    _Heading("max", "replicas", lambda r, t, s: _Cell(count(t.replicas_max), t.replicas_max)),
    _Heading("own GPUs", "GPU-h", lambda r, t, s: _Cell(number(_gpu_hours(t)), _gpu_hours(t))),
    _Heading("starts", "", lambda r, t, s: _starts(t), word=True),
)
