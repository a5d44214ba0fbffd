"""How a number is written for a person: short, with its unit, and the same in every output.

`columns.py`, `verdict.py` and `html.py` write through these; machine-readable outputs
(`jsonout.py`, `csvout.py`) never do.
"""

from __future__ import annotations

import math

UNKNOWN = "-"


def number(value: float | None) -> str:
    """Three significant digits, thousands set apart; `-` where unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.005 or value == 0 else f"{value:.1g}"


def setting(value: float) -> str:
    """Return a number that the user chose, as chosen: `2`, `0.5`, `30`."""
    return f"{value:g}"


def count(value: int) -> str:
    """Return a whole number with its thousands separated."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """Return a latency in seconds, three significant digits down to a millisecond."""
    if not math.isfinite(value):
        return UNKNOWN
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.995 else f"{value:.3f}"


def percent(share: float) -> str:
    """Return a share as a percentage, with digits enough to tell 99.9% from 99.99%; `<0.001%` below that."""
    if not math.isfinite(share):
        return UNKNOWN
    if 0 < abs(share) < 1e-5:
        return "<0.001%"
    return f"{100 * share:.3f}".rstrip("0").rstrip(".") + "%" if abs(share) < 0.1 else f"{100 * share:.1f}%"


def attained(share: float) -> str:
    """Return a share near one, never rounded up to 100%: three decimals, rounded down."""
    shown = math.floor(share * 1e5 + 1e-6) / 1e3
    return f"{shown:.3f}".rstrip("0").rstrip(".") + "%"


def change(value: float, reference: float, less: str, more: str, same: str) -> str:
    """How `value` compares with `reference`: `12% fewer`, `3.2 times as many`, `as many`.

    `less` and `more` follow a percentage, `same` follows "times" or stands alone. What is left of
    something is never rounded to nothing: one miss of a million is `99.9% fewer`, not `100%`.
    """
    if value == reference:
        return same
    if reference == 0 or not math.isfinite(value - reference):
        return more if value > reference else less
    ratio = (value - reference) / reference
    if ratio >= 1.0:
        return f"{1 + ratio:.1f} times {same}" if ratio < 99 else f"over 100 times {same}"
    size = abs(ratio) if value == 0 else min(abs(ratio), 0.999)
    if size < 0.0005:
        return f"almost {same}"
    shown = f"{100 * size:.1f}" if size < 0.0995 or 0.99 <= size < 1 else f"{100 * size:.0f}"
    return f"{shown.removesuffix('.0')}% {less if value < reference else more}"
