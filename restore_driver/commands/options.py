"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from restore_driver.logs import ENVIRONMENT, LogFormat

ATTEMPT, MACHINE, OUTPUT = "The attempt", "This machine", "Output"

Deadlines = Annotated[
    list[str] | None,
    typer.Option("--deadline", metavar="PHASE=SECONDS", help="Another deadline for a phase.", rich_help_panel=ATTEMPT),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.", rich_help_panel=OUTPUT)]
StateDirectory = Annotated[
    Path,
    typer.Option(
        "--state",
        help="Journals and logs; only root's, best on tmpfs.",
        rich_help_panel=MACHINE,
        readable=False,  # who may not enter it is told by the command itself, and why
    ),
]
AgentSocket = Annotated[
    Path | None,
    typer.Option(
        "--agent", help="Socket of the agent; default: STATE/agent.sock if one serves.", rich_help_panel=MACHINE
    ),
]
SpecFile = Annotated[
    Path | None,
    typer.Option(
        "--replica", help="What the replica is: engine hooks and proof (TOML or JSON).", rich_help_panel=ATTEMPT
    ),
]
HolderSocket = Annotated[
    Path | None, typer.Option("--holder", help="Socket of the weights holder.", rich_help_panel=MACHINE)
]
Gpus = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu", metavar="UUID", help="A GPU of the replica; repeat it, in its order.", rich_help_panel=MACHINE
    ),
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", envvar=ENVIRONMENT, help="Form of the log on standard error.", rich_help_panel=OUTPUT),
]
STATE = Path("/run/forethaw")
