"""The sections of the page as HTML text, top to bottom; `html.py` binds them into a document.

Every text that comes from the results is escaped here, where it enters the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from simulations.report import derived, plots
from simulations.report.columns import Column, columns
from simulations.report.derived import Standing
from simulations.report.target_table import table_cell, table_line, target_table
from simulations.report.timeline import Timelines
from simulations.report.verdict import BAD, GOOD, MIXED, PLAIN, verdict
from simulations.report.wording import change, count, number, percent, setting
from simulations.results import Comparison, PoolingGain

TONES = {GOOD: "better", MIXED: "mixed", BAD: "worse", PLAIN: ""}

ONE_REPLAY = (
    "All rows met the same arrivals, the same pool and the same lead times. This is one replay with one "
    "seed: differences of a percent or two may be luck."
)


def sections(comparison: Comparison, block: Timelines) -> tuple[str, ...]:
    """All that stands in the page's body, in the order of reading."""
    return (
        _header(comparison),
        _verdict_section(comparison),
        _table_section(comparison),
        _figures_section(comparison),
        _pooling_section(comparison.pooling),
        _timeline_section(comparison, block),
        _targets_section(comparison),
        _facts_section(comparison),
    )


def first_shown(comparison: Comparison) -> int:
    """Index of the row whose timeline is shown first: ours, or the first."""
    us = derived.ours(comparison)
    return next((i for i, r in enumerate(comparison.rows) if r is us), 0)


def _header(comparison: Comparison) -> str:
    run = comparison.rows[0] if comparison.rows else None
    facts = [
        (
            f"SLO <b>{percent(comparison.slo_share)}</b> of requests wait at most "
            f"<b>{setting(comparison.slo_wait_s)} s</b>"
        ),
        f"a miss costs <b>{setting(comparison.miss_cost_gpu_s)} GPU-seconds</b>",
    ]
    if run is not None:
        facts += [
            f"<b>{count(run.requests)}</b> requests in <b>{number(run.duration_s / 3600)} h</b>",
            (
                f"<b>{len(run.targets)}</b> target{'s' if len(run.targets) != 1 else ''} on "
                f"<b>{count(run.pool_gpus)}</b> GPUs"
            ),
        ]
    facts.append(f"seed <b>{comparison.seed}</b>")
    return (
        f"<header><div><h1>{escape(comparison.title)}</h1>"
        f'<p class="facts">{" · ".join(facts)}</p></div>'
        '<button id="scheme" type="button" title="light or dark">Dark</button></header>'
    )


def _verdict_section(comparison: Comparison) -> str:
    lines = []
    for sentence in verdict(comparison):
        lead, _, rest = sentence.text.partition(": ")
        word = "" if sentence.topic == "slo" else TONES[sentence.tone]
        tone = f' <span class="tone">{word}</span>' if word else ""
        lines.append(
            f'<p class="{sentence.tone}" data-topic="{sentence.topic}"><b>{escape(lead)}:</b> {escape(rest)}{tone}</p>'
        )
    empty = '<p class="plain">The rows of this comparison leave nothing to compare.</p>'
    return f'<section class="verdict"><h2>In short</h2>{"".join(lines) or empty}</section>'


def _table_section(comparison: Comparison) -> str:
    shown = columns(comparison)
    us = derived.ours(comparison)
    standings = derived.standings(comparison)
    bodies = []
    for name, members in (
        ("policies", [s for s in standings if not s.run.bound]),
        ("bounds", [s for s in standings if s.run.bound]),
    ):
        if members:
            lines = "".join(_table_line(shown, s, is_ours=s.run is us) for s in members)
            bodies.append(f'<tbody class="{name}">{lines}</tbody>')
    legend = "".join(f"<dt>{escape(c.title)}</dt><dd>{escape(c.meaning)}</dd>" for c in shown)
    return (
        '<section><h2>Comparison</h2><p class="hint">Click a heading to sort. Our row is tinted; the rows in '
        "italics are bounds: they know what no policy can know.</p>"
        '<div class="scroll"><table class="sortable" id="comparison"><thead><tr>'
        f"{_headings(shown)}</tr></thead>{''.join(bodies)}</table></div>"
        f"<details><summary>What the columns mean</summary><dl>{legend}</dl></details></section>"
    )


def _headings(shown: Iterable[Column]) -> str:
    return "".join(
        f'<th scope="col" class="{"number" if c.numeric else "word"}" title="{escape(c.meaning)}">'
        f'<button type="button">{escape(c.heading)}{f"<small>{escape(c.unit)}</small>" if c.unit else ""}'
        "</button></th>"
        for c in shown
    )


def _table_line(shown: Iterable[Column], standing: Standing, *, is_ours: bool) -> str:
    cells = []
    for column in shown:
        text = column.shown(standing)
        key = column.sorted_by(standing)
        kind = "number" if column.numeric else "word"
        if column.heading == "SLO":
            kind += f" {text.split()[0]}"
        cells.append(table_cell(kind, key, text))
    return table_line(cells, is_ours=is_ours)


def _figures_section(comparison: Comparison) -> str:
    regret = (
        "<section><h2>Regret</h2>"
        '<p class="hint">What each policy costs more than a bound, misses priced in. A bar to the left of '
        "zero: the policy was luckier than the bound on these arrivals.</p>"
        '<div class="figure" id="regret"></div></section>'
    )
    has_bounds = plots.regret(comparison) is not None
    return (
        "<section><h2>GPU-hours against misses</h2>"
        '<p class="hint">Down and to the left is better. The dotted line joins the policies that no other '
        "policy beats on both counts.</p>"
        '<div class="figure" id="frontier"></div></section>'
        "<section><h2>Where the GPU-hours went</h2>"
        '<div class="figure" id="gpu-hours"></div></section>' + (regret if has_bounds else "")
    )


def _pooling_section(gain: PoolingGain | None) -> str:
    if gain is None:
        return ""
    spares = change(gain.spare_gpus_pooled, gain.spare_gpus_apart, "fewer", "more", "as many")
    tiles = (
        (number(gain.spare_gpus_pooled), f"spare GPUs on the mean, sized together ({spares})"),
        (number(gain.spare_gpus_apart), "spare GPUs on the mean, sized apart"),
        (
            f"{number(gain.held_gpu_hours_pooled)} / {number(gain.held_gpu_hours_apart)}",
            "GPU-hours held, together / apart",
        ),
        (f"{count(gain.misses_pooled)} / {count(gain.misses_apart)}", "misses, together / apart"),
    )
    shown = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in tiles)
    return (
        '<section id="pooling"><h2>What pooling the spares is worth</h2>'
        '<p class="hint">Any target with a snapshot near can wake on any spare GPU, so the spares are sized '
        "for the sum of the targets' rises, not for each rise by itself.</p>"
        f'<div class="tiles">{shown}</div></section>'
    )


def _timeline_section(comparison: Comparison, block: Timelines) -> str:
    if not comparison.rows:
        return ""
    first = first_shown(comparison)
    options = "".join(
        f'<option value="{i}"{" selected" if i == first else ""}>{escape(r.row)}</option>'
        for i, r in enumerate(comparison.rows)
    )
    tabs = "".join(
        f'<button type="button" data-target="{i}" aria-pressed="{"true" if i == 0 else "false"}">'
        f"{escape(t.name)}</button>"
        for i, t in enumerate(comparison.rows[first].targets)
    )
    rule = " Long series are thinned: means of neighbouring buckets, for a latency their maximum."
    thinned = rule if block.thinned else ""
    return (
        "<section><h2>Over time</h2>"
        '<p class="hint">Choose a row and a target; drag to zoom all panels, double-click to zoom out. '
        f"The SLO counts waiting alone; the time to first token adds the prefill.{thinned}</p>"
        f'<div class="chooser"><label>Row <select id="row-picker">{options}</select></label>'
        f"<span>Target {tabs}</span></div>"
        '<div class="figure" id="timeline"></div>'
        '<p class="empty" id="no-series" hidden>No series were kept for this row.</p></section>'
    )


def _targets_section(comparison: Comparison) -> str:
    if not comparison.rows:
        return ""
    return f"<section><h2>Target by target</h2>{target_table(comparison)}</section>"


def _facts_section(comparison: Comparison) -> str:
    # Sorted, since the archive does not keep an order and a redrawn page should be the same page.
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in sorted(comparison.scenario.items()))
    notes = "".join(f"<li>{escape(n)}</li>" for n in comparison.notes)
    return (
        f"<section><h2>The scenario</h2><dl>{facts}</dl>{f'<ul>{notes}</ul>' if notes else ''}</section>"
        "<section><h2>Make these numbers again</h2>"
        f"<pre>{escape(comparison.command)}</pre>"
        f'<p class="hint" style="margin:8px 0 0">Seed {comparison.seed}. {ONE_REPLAY}</p></section>'
        "<footer>Made by Forethaw. This page holds all of its data and loads nothing.</footer>"
    )
