"""Convert options of `option_table.py` to typer's, and share those that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from restore_driver.commands.option_table import (
    AS_JSON,
    ATTEMPT,
    MACHINE,
    OUTPUT,
    STATE,
    STATE_DIRECTORY,
    Kind,
    Option,
)
from restore_driver.logs import ENVIRONMENT, LogFormat

__all__ = [
    "ATTEMPT",
    "MACHINE",
    "OUTPUT",
    "PYTHON_TYPES",
    "STATE",
    "AsJson",
    "LogFormatOption",
    "StateDirectory",
    "typer_option",
]

PYTHON_TYPES: dict[Kind, Any] = {"number": int, "path": Path, "switch": bool, "text": str, "texts": list[str]}


def typer_option(option: Option) -> Any:
    """Return typer's description of an option of the table."""
    written = f"{option.on}/{option.off}" if option.off else option.on
    return typer.Option(
        written,
        help=option.help,
        rich_help_panel=option.panel,
        metavar=option.metavar,
        readable=option.readable,
    )


AsJson = Annotated[bool, typer_option(AS_JSON)]
StateDirectory = Annotated[Path, typer_option(STATE_DIRECTORY)]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", envvar=ENVIRONMENT, help="Form of the log on standard error.", rich_help_panel=OUTPUT),
]
