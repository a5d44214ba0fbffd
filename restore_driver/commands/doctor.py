"""`forethaw doctor`: find out what this machine lacks for checkpoint and restore, before the first one fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from restore_driver.commands.options import MACHINE, STATE, AsJson, StateDirectory

NOT_FIT = 1
PATIENCE_S = 5.0


def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="A GPU is needed: its absence is an error.", rich_help_panel=MACHINE)
    ] = False,
    artifacts: Annotated[
        Path | None, typer.Option(help="Directory that artifacts lie in, or will.", rich_help_panel=MACHINE)
    ] = None,
    holder: Annotated[
        Path | None, typer.Option(help="Socket of the weights holder that must answer.", rich_help_panel=MACHINE)
    ] = None,
    state: StateDirectory = STATE,
    patience: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="Limit for each program to answer.", rich_help_panel=MACHINE),
    ] = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Try what checkpoint and restore need of this machine, change nothing, and print a hint for each problem.

    Exit code 0 if nothing that is needed is missing or broken (warnings are allowed), 1 otherwise.
    """
    from restore_driver.commands.console import print_findings
    from restore_driver.doctor import Machine, examine, is_fit

    findings = examine(Machine(state, artifacts, holder, gpu, patience))
    fit = is_fit(findings)
    if as_json:
        typer.echo(json.dumps({"fit": fit, "findings": [dataclasses.asdict(each) for each in findings]}, indent=2))
    else:
        print_findings(findings)
    if not fit:
        raise typer.Exit(NOT_FIT)
