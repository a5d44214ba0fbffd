"""`forethaw checkpoint | restore | park | unpark`: typer's commands, made from `option_table.py`.

The resident agent carries the request out if one serves, else this process does. `light.py` is tried first: what it
declines (a usage error, `--help`, no agent) is run and explained here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from restore_driver.commands.daemons import end_placeholder, make_placeholder
from restore_driver.commands.option_table import COMMANDS, Argument, AttemptCommand, Option, Values
from restore_driver.commands.options import PYTHON_TYPES, typer_option
from restore_driver.commands.run_request import carry_out

Command = Callable[..., None]


def typer_command(command: AttemptCommand, run: Callable[[AttemptCommand, Values], None]) -> Command:
    """Return a function for typer whose signature and docstring come from the table; it calls `run`."""

    def called(**given: Any) -> None:
        run(command, given)

    called.__name__ = command.name
    called.__doc__ = "\n\n".join([command.help, "Examples:", *command.examples])
    # Where typer looks for parameters, their types and their defaults (inspect.signature).
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*map(_argument, command.arguments), *map(_option, command.options)]
    )
    return called


def _argument(argument: Argument) -> inspect.Parameter:
    kind = PYTHON_TYPES[argument.kind]
    annotation: Any = Annotated[kind, typer.Argument(help=argument.help)]
    return inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def _option(option: Option) -> inspect.Parameter:
    kind = PYTHON_TYPES[option.kind]
    annotation: Any = Annotated[kind if option.default is not None else kind | None, typer_option(option)]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation)


def _run(command: AttemptCommand, given: Values) -> None:
    if command.name == "restore" and given["into"] is None:
        _restore_into_a_new_placeholder(command, given)
    else:
        carry_out(command, lambda: _request(command, given), given)


def _restore_into_a_new_placeholder(command: AttemptCommand, given: Values) -> None:
    made = make_placeholder(command.name, given["network"], as_json=given["as_json"])
    try:
        _run(command, {**given, "into": made})
    except typer.Exit as ending:
        if ending.exit_code:
            end_placeholder(made)
        raise


def _request(command: AttemptCommand, given: Values) -> Any:
    from restore_driver.wire import requests

    models: dict[str, type[requests.Request]] = {
        "checkpoint": requests.CheckpointRequest,
        "restore": requests.RestoreRequest,
        "park": requests.ParkRequest,
        "unpark": requests.UnparkRequest,
    }
    loaded = {**given, "replica": _replica(given["replica"])} if "replica" in given else given
    return models[command.name].model_validate(command.message(loaded))


def _replica(path: Path | None) -> Any:
    from restore_driver.spec_file import load_replica_spec
    from restore_driver.wire.replica_spec import ReplicaSpec

    return ReplicaSpec() if path is None else load_replica_spec(path)


ATTEMPTS: dict[str, Command] = {name: typer_command(command, _run) for name, command in COMMANDS.items()}
