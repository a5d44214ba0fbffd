"""Carry out a request, through the agent if one serves or in this process, and end the command with its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from restore_driver.commands.option_table import LONGEST_ATTEMPT_S, AttemptCommand, Values
from restore_driver.commands.outcome import FAILED, REFUSED, print_error, print_outcome
from restore_driver.commands.progress import Progress
from restore_driver.errors import DriverError, Reason
from restore_driver.logs import LogFormat
from restore_driver.validation_errors import refused_request


def carry_out(command: AttemptCommand, make: Callable[[], Any], given: Values) -> None:
    """Make the request, carry it out and print the result; an agent's result is printed as the agent sent it.

    Raises:
        typer.Exit: with the result's exit code, unless it is 0.
    """
    from restore_driver.agent.client import converse, serves

    agent, as_json = given["agent"], given["as_json"]
    try:
        request = make()
        socket = agent or given["state"] / "agent.sock"
        with Progress(quiet=as_json) as progress:
            if agent is not None or serves(socket):
                message = request.model_dump(mode="json")
                result = converse(socket, message, LONGEST_ATTEMPT_S, progress.observe)
            else:
                driver = open_driver(given["state"])
                print_recovered(driver.recover())
                result = driver.carry_out(request, progress.observe).model_dump(mode="json")
    except DriverError as error:
        refuse(command.name, error, as_json=as_json)
    except ValidationError as error:
        refuse(command.name, refused_request(error), as_json=as_json)
    exit_code = print_outcome(result, as_json=as_json)
    if exit_code:
        raise typer.Exit(exit_code)


def print_recovered(recovered: Iterable[Any], *, err: bool = True) -> None:
    """Print what was rolled back of attempts whose driver died, and which undos failed."""
    for each in recovered:
        typer.echo(f"rolled back {each.attempt}: {', '.join(each.undone) or 'nothing to undo'}", err=err)
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


def refuse(command: str, error: DriverError, *, as_json: bool = False) -> NoReturn:
    """Print the error and end `command` with exit code 2: nothing was touched."""
    print_error(command, "refused", error, as_json=as_json)
    raise typer.Exit(REFUSED)


def fail(command: str, error: DriverError, total_s: float, *, as_json: bool = False) -> NoReturn:
    """Print the error and end `command`, which ran for `total_s` seconds, with exit code 1."""
    print_error(command, "failed", error, as_json=as_json, total_s=total_s)
    raise typer.Exit(FAILED)
