"""Carry a request out, by the agent if one serves or in this process, and end the command with its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from restore_driver.commands.option_table import LONGEST_ATTEMPT_S
from restore_driver.commands.outcome import FAILED, REFUSED, print_error, print_outcome
from restore_driver.commands.progress import Progress
from restore_driver.errors import DriverError, Reason
from restore_driver.logs import LogFormat
from restore_driver.validation_errors import refused_request


def carry_out(make: Callable[[], Any], state: Path, agent: Path | None, as_json: bool) -> None:
    """Make a request, have it carried out, print the result; ends the command unless it went well."""
    from restore_driver.agent.client import ask, serves

    try:
        request = make()
        socket = agent or state / "agent.sock"
        with Progress(quiet=as_json) as progress:
            if agent is not None or serves(socket):
                result = ask(socket, request, LONGEST_ATTEMPT_S, progress.observe)
            else:
                driver = open_driver(state)
                tell_recovered(driver.recover())
                result = driver.carry_out(request, progress.observe)
    except DriverError as error:
        refuse(error, as_json)
    except ValidationError as error:
        refuse(refused_request(error), as_json)
    exit_code = print_outcome(result.model_dump(mode="json"), as_json=as_json)
    if exit_code:
        raise typer.Exit(exit_code)


def tell_recovered(recovered: Iterable[Any], *, err: bool = True) -> None:
    """Print what was undone of attempts whose driver died, and what of it failed."""
    for each in recovered:
        typer.echo(f"took back {each.attempt}: {', '.join(each.undone) or 'nothing to undo'}", err=err)
        for sentence in each.errors:
            typer.echo(f"  undo failed: {sentence}", err=True)


def open_driver(state: Path, *, resident: bool = False, log_format: LogFormat = LogFormat.OFF) -> Any:
    """Open a driver of this process's own.

    Raises:
        DriverError: REQUEST_INVALID unless run as root; CRIU_MISSING; NOT_TRUSTED.
    """
    from restore_driver.driver import Driver
    from restore_driver.toolset import open_toolset

    if os.geteuid() != 0:
        raise DriverError(Reason.REQUEST_INVALID, "checkpoint and restore need root", "run it as root")
    return Driver(open_toolset(state, resident=resident, log_format=log_format))


def refuse(error: DriverError, as_json: bool = False) -> NoReturn:
    """End the command with exit code 2: nothing was touched."""
    print_error("refused", error, as_json=as_json)
    raise typer.Exit(REFUSED)


def fail(error: DriverError, as_json: bool = False) -> NoReturn:
    """End the command with exit code 1."""
    print_error("failed", error, as_json=as_json)
    raise typer.Exit(FAILED)
