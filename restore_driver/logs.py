"""Structured logs of the resident processes (agent, weights holder, CUDA helper): one event a line, on standard error.

Every line has an event name, a level and a time; a failure has `reason` (a `Reason` code), `detail` and `hint`, and
durations are in seconds (`took_s`). Lines are for people by default, and JSON objects on request.

One-shot commands print results and never log: a logger is silent unless `open_log` made it, and only the resident
processes call that.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Any, TextIO

ENVIRONMENT = "FORETHAW_LOG_FORMAT"
"""Environment variable that names the format where `--log-format` is not given."""


class LogFormat(StrEnum):
    """How log lines are rendered."""

    TEXT = "text"
    JSON = "json"
    OFF = "off"


class Logger:
    """Writes events; safe for several threads."""

    def __init__(self, backend: Any = None) -> None:
        self._backend = backend

    def info(self, event: str, **fields: Any) -> None:
        """Log an expected event; a field that is None is left out."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log a refusal or a failure."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log a defect of the driver."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if self._backend is not None:
            known = {name: value for name, value in fields.items() if value is not None}
            getattr(self._backend, level)(event, **known)


SILENT = Logger()


def chosen_format(option: LogFormat | None) -> LogFormat:
    """Return the option, else the format that FORETHAW_LOG_FORMAT names, else text.

    Raises:
        ValueError: the variable names no format.
    """
    return option or LogFormat(os.environ.get(ENVIRONMENT) or LogFormat.TEXT)


def open_log(process: str, form: LogFormat, stream: TextIO | None = None) -> Logger:
    """Return the logger of a resident process, whose lines carry its name and PID."""
    if form is LogFormat.OFF:
        return SILENT
    import structlog  # a tenth of a second, which one-shot commands need not pay

    out = sys.stderr if stream is None else stream
    render: Any = (
        structlog.processors.JSONRenderer(default=str)
        if form is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    processors = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        render,
    ]
    backend = structlog.wrap_logger(structlog.WriteLogger(out), processors, structlog.BoundLogger)
    return Logger(backend.bind(process=process, pid=os.getpid()))
