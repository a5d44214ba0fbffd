"""One log line a decision: what changed, by reason code, and what was asked for.

A line names every target whose count changes or is held, with its code and numbers; targets that stay as they are
are only counted, so that a pool of a thousand writes a line and not a page. People read the rendered text, machines
the codes; `--log-format json` chooses.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TextIO

import structlog

from autoscaler.outcomes import SETBACKS, Conflict
from autoscaler.ports import PassRecord
from policies.reasons import ReasonCode
from policies.types import TargetPlan

HELD = frozenset({ReasonCode.METRICS_UNKNOWN, ReasonCode.NO_FORECAST, ReasonCode.PLAN_REJECTED})
"""Codes of targets that are held rather than planned: always worth a word."""


class DecisionLog:
    """Writes one line for each completed pass; `sink` is a text stream, or None for standard output."""

    def __init__(self, sink: TextIO | None = None, log_format: str = "text") -> None:
        """Choose the form: `text` for people, `json` for machines. ValueError for any other."""
        if log_format not in ("text", "json"):
            raise ValueError(f"log_format: {log_format!r} is no form of log; give text or json")
        as_json = structlog.processors.JSONRenderer(sort_keys=True)
        as_text = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(sink), processors=[as_json if log_format == "json" else as_text]
        )

    def completed(self, record: PassRecord) -> None:
        """Write the line of a pass that has acted."""
        self._log.info("decision", **line(record))

    def failed(self, pool: str, at_s: float, error: Exception) -> None:
        """Write the line of a pass that could not be made; nothing was changed by it."""
        self._log.info("pass-failed", pool=pool, at_s=at_s, error=type(error).__name__, detail=str(error))


def line(record: PassRecord) -> dict[str, Any]:
    """Return the fields of a record's line: JSON types only."""
    codes = Counter(p.reasons[0].code.value for p in record.plan.targets.values())
    fields: dict[str, Any] = {
        "pool": record.pool,
        "at_s": record.now_s,
        "codes": dict(sorted(codes.items())),
        "targets": {str(key): _told(p) for key, p in sorted(record.plan.targets.items()) if _worth_a_word(p)},
        "idle_gpus": dict(record.plan.supply),
        "actions": dict(sorted(Counter(a.kind.value for a in record.actions).items())),
    }
    if record.violations:
        fields["violations"] = [
            {"of": str(v.target or v.node or record.pool), "text": v.text} for v in record.violations
        ]
    troubles = {
        name: f"{type(outcome).__name__}: {outcome.detail}"
        for name, outcome in (record.outcomes or {}).items()
        if isinstance(outcome, (*SETBACKS, Conflict))
    }
    return fields | ({"troubles": troubles} if troubles else {})


def _worth_a_word(planned: TargetPlan) -> bool:
    return planned.reasons[0].code is not ReasonCode.UNCHANGED or any(r.code in HELD for r in planned.reasons)


def _told(planned: TargetPlan) -> dict[str, Any]:
    return {
        "active": planned.active,
        "reasons": [r.code.value for r in planned.reasons],
        "text": "; ".join(r.text for r in planned.reasons),
    }
