"""`forethaw agent | recover | placeholder`: the resident agent, roll-back after a crash, and new placeholders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from restore_driver.commands.options import STATE, AsJson, LogFormatOption, StateDirectory
from restore_driver.commands.outcome import FAILED
from restore_driver.commands.run_request import open_driver, print_recovered, refuse
from restore_driver.errors import DriverError, Reason
from restore_driver.logs import LogFormat, open_log


def serve_agent(
    socket: Annotated[Path | None, typer.Option(help="Where to listen; default: STATE/agent.sock.")] = None,
    state: StateDirectory = STATE,
    log_format: LogFormatOption = LogFormat.TEXT,
) -> None:
    """Serve requests on a local socket, with everything started beforehand; roll back what a killed agent left."""
    from restore_driver.agent.server import Agent, log_recovered

    try:
        driver = open_driver(state, resident=True, log_format=log_format)
        log = open_log("agent", log_format)
        log_recovered(log, driver.recover())
        agent = Agent(driver, socket or state / "agent.sock", log)
        agent.listen()
    except DriverError as error:
        refuse("agent", error)
    agent.stop_on_signals()
    agent.serve(lambda: typer.echo(f"ready on {agent.path}"))


def recover(state: StateDirectory = STATE, as_json: AsJson = False) -> None:
    """Roll back attempts whose driver was killed; agents do it when they start."""
    import dataclasses

    try:
        done = list(open_driver(state).recover())
    except DriverError as error:
        refuse("recover", error, as_json=as_json)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in done]))
    else:
        print_recovered(done, err=False)
    if any(each.errors for each in done):
        raise typer.Exit(FAILED)


def placeholder(
    network: Annotated[str, typer.Option(help="`host` or `private`.")] = "private",
    root: Annotated[Path, typer.Option(help="Directory that becomes its root.")] = Path("/"),
) -> None:
    """Make an empty placeholder with namespaces of its own and print its PID; `kill -9 PID` ends it."""
    typer.echo(make_placeholder("placeholder", network, root))


def make_placeholder(command: str, network: str, root: Path = Path("/"), *, as_json: bool = False) -> int:
    """Make a placeholder for `command` and return its PID; refuse the command where that is not possible."""
    from restore_driver.placeholder.create import create

    if network not in ("host", "private"):
        problem = f"--network {network!r} is neither host nor private"
        refuse(command, DriverError(Reason.REQUEST_INVALID, problem, "give one of the two"), as_json=as_json)
    try:
        return create(network="host" if network == "host" else "private", root=root).pid
    except (DriverError, OSError) as error:
        known = error if isinstance(error, DriverError) else DriverError(Reason.PLACEHOLDER_LOST, str(error))
        refuse(command, known, as_json=as_json)


def end_placeholder(pid: int) -> None:
    """Kill a placeholder with all processes in it."""
    from restore_driver.placeholder.create import Placeholder

    Placeholder(pid).end()
