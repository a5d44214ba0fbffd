"""How a command ends: its result for people or as JSON, and an exit code.

0 the sequence reached its end, 1 it failed and was undone, 2 it was refused and nothing was touched.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from restore_driver.errors import DriverError, Reason
from restore_driver.logs import LogFormat
from restore_driver.validation_errors import refused_request

FAILED, REFUSED = 1, 2


def carry_out(make: Callable[[], Any], state: Path, agent: Path | None, as_json: bool) -> None:
    from restore_driver.agent.client import ask, serves
    from restore_driver.commands.console import Progress, print_result

    try:
        request = make()
        socket = agent or state / "agent.sock"
        with Progress(quiet=as_json) as progress:
            if agent is not None or serves(socket):
                result = ask(socket, request, 3600.0, progress.observe)
            else:
                driver = open_driver(state)
                tell_recovered(driver.recover())
                result = driver.carry_out(request, progress.observe)
    except DriverError as error:
        refuse(error, as_json)
    except ValidationError as error:
        refuse(refused_request(error), as_json)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        print_result(result)
    if not result.ok:
        raise typer.Exit(REFUSED if result.outcome == "refused" else FAILED)


def tell_recovered(recovered: Iterable[Any], *, err: bool = True) -> None:
    """What was taken back of attempts whose driver died, and what of it failed."""
    for each in recovered:
        typer.echo(f"took back {each.attempt}: {', '.join(each.undone) or 'nothing to undo'}", err=err)
        for sentence in each.errors:
            typer.echo(f"  undo failed: {sentence}", err=True)


def open_driver(state: Path, *, resident: bool = False, log_format: LogFormat = LogFormat.OFF) -> Any:
    """A driver of this process's own.

    Raises:
        DriverError: REQUEST_INVALID for who is not root; CRIU_MISSING; NOT_TRUSTED.
    """
    from restore_driver.driver import Driver
    from restore_driver.toolset import open_toolset

    if os.geteuid() != 0:
        raise DriverError(Reason.REQUEST_INVALID, "checkpoint and restore need root", "run it as root")
    return Driver(open_toolset(state, resident=resident, log_format=log_format))


def refuse(error: DriverError, as_json: bool = False) -> NoReturn:
    _end("refused", REFUSED, error, as_json)


def fail(error: DriverError, as_json: bool = False) -> NoReturn:
    _end("failed", FAILED, error, as_json)


def _end(outcome: str, exit_code: int, error: DriverError, as_json: bool) -> NoReturn:
    if as_json:
        said = {"outcome": outcome, "reason": error.reason, "detail": error.detail, "hint": error.hint}
        typer.echo(json.dumps(said))
    print(error, file=sys.stderr)
    raise typer.Exit(exit_code)
