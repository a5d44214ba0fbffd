"""The columns of the comparison table, once, for the terminal, Markdown and the page.

A column knows its heading, its unit, what it means in one line, what it shows for a row and what it
sorts by. `table.py` and `html.py` only lay them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from simulations.report import derived
from simulations.report.derived import Standing
from simulations.report.wording import UNKNOWN, count, number, percent, seconds, setting
from simulations.results import Comparison

KNOWN_TO = {
    derived.CLAIRVOYANT: "every arrival",
    derived.INFORMED: "the true rate and burstiness of each moment, but not the arrivals",
}

ROW_GROUP, COST_GROUP, SERVICE_GROUP = "row", "cost", "service"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table: its heading, the text of a cell, and the number that the cell sorts by."""

    heading: str
    unit: str
    """Empty for words and plain counts."""
    meaning: str
    shown: Callable[[Standing], str]
    sorted_by: Callable[[Standing], float | str]
    """NaN sorts last."""
    group: str
    """On a narrow terminal the `cost` and the `service` columns become two tables."""

    @property
    def title(self) -> str:
        """Return the heading with its unit."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    @property
    def numeric(self) -> bool:
        """Return whether cells are numbers, which are set flush right."""
        return self.group != ROW_GROUP


def columns(comparison: Comparison) -> tuple[Column, ...]:
    """Return the columns that this comparison can fill: no regret without its bound."""
    regrets = tuple(
        _regret(bound, heading)
        for bound, heading in ((derived.CLAIRVOYANT, "regret clairv."), (derived.INFORMED, "regret informed"))
        if comparison.bound(bound) is not None
    )
    return (*_identity(), *_holding(), *_service(comparison), *_starts(), _cost(comparison), *regrets)


def _identity() -> tuple[Column, ...]:
    return (
        Column("row", "", "who decides", lambda s: s.run.row, lambda s: s.run.row, ROW_GROUP),
        Column(
            "starts from",
            "",
            "what a new replica starts from: a snapshot (restore) or nothing (cold)",
            lambda s: s.run.starts_from,
            lambda s: s.run.starts_from,
            ROW_GROUP,
        ),
    )


def _holding() -> tuple[Column, ...]:
    return (
        Column(
            "held",
            "GPU-h",
            "GPU-hours kept from other work: every state of a GPU but lent",
            lambda s: number(s.run.held_gpu_hours),
            lambda s: s.run.held_gpu_hours,
            COST_GROUP,
        ),
        Column(
            "mean",
            "GPUs",
            "the same as a mean over the replay",
            lambda s: number(s.mean_gpus),
            lambda s: s.mean_gpus,
            COST_GROUP,
        ),
    )


def _service(comparison: Comparison) -> tuple[Column, ...]:
    wait_s = setting(comparison.slo_wait_s)
    asked = percent(comparison.slo_share)
    several = any(len(r.targets) > 1 for r in comparison.rows)
    of_whom = ", of the target where it is longest" if several else ""
    return (
        Column(
            "misses",
            "",
            f"requests that waited more than {wait_s} s before their prefill began",
            lambda s: count(s.run.misses),
            lambda s: s.run.misses,
            SERVICE_GROUP,
        ),
        Column(
            "missed",
            "%",
            "misses as a share of all requests",
            lambda s: percent(s.run.miss_share),
            lambda s: s.run.miss_share,
            SERVICE_GROUP,
        ),
        Column(
            "SLO",
            "",
            f"yes if {asked} of all requests met it; n/m where n of m targets do by themselves",
            slo_cell,
            lambda s: s.targets_meeting_slo + s.meets_slo,
            SERVICE_GROUP,
        ),
        _ttft("p50", f"half of the requests had their first token within this time{of_whom}"),
        _ttft("p95", f"95% had{of_whom}"),
        _ttft("p99", f"99% had{of_whom}"),
    )


def _ttft(quantile: str, meaning: str) -> Column:
    return Column(
        f"TTFT {quantile}",
        "s",
        meaning,
        lambda s: seconds(s.worst_ttft_s[quantile]),
        lambda s: s.worst_ttft_s[quantile],
        SERVICE_GROUP,
    )


def _starts() -> tuple[Column, ...]:
    return (
        Column(
            "restores",
            "",
            "starts from a snapshot or a warm replica (standby, parked, staged, remote)",
            lambda s: count(s.snapshot_starts),
            lambda s: s.snapshot_starts,
            COST_GROUP,
        ),
        Column(
            "cold",
            "",
            "starts from nothing: image, weights, compilation",
            lambda s: count(s.cold_starts),
            lambda s: s.cold_starts,
            COST_GROUP,
        ),
    )


def _cost(comparison: Comparison) -> Column:
    return Column(
        "cost",
        "GPU-h",
        f"GPU-hours held, and each miss at {setting(comparison.miss_cost_gpu_s)} GPU-seconds",
        lambda s: number(s.run.cost_gpu_s / 3600.0),
        lambda s: s.run.cost_gpu_s,
        COST_GROUP,
    )


def _regret(bound: str, heading: str) -> Column:
    meaning = f"cost above the {bound} bound, which knows {KNOWN_TO[bound]}"

    def regret(standing: Standing) -> float:
        value = standing.regret_gpu_s[bound]
        return math.nan if value is None else value

    def shown(standing: Standing) -> str:
        value = regret(standing) / 3600.0
        return UNKNOWN if math.isnan(value) else number(value) if value <= 0 else f"+{number(value)}"

    return Column(heading, "GPU-h", meaning, shown, regret, COST_GROUP)


def slo_cell(standing: Standing) -> str:
    """`yes` if every target meets the SLO, `no` if none does and all together do not, else a count."""
    n = len(standing.run.targets)
    if standing.meets_slo and standing.targets_meeting_slo == n:
        return "yes"
    if not standing.meets_slo and (standing.targets_meeting_slo == 0 or n == 1):
        return "no"
    return f"{'yes' if standing.meets_slo else 'no'} {standing.targets_meeting_slo}/{n}"
