"""`forethaw checkpoint | restore | park | unpark | agent | ...`: the restore driver's commands.

Options become one request; the resident agent carries it out if one serves, else this process does. Exit codes: 0 the
sequence reached its end, 1 it failed and was undone, 2 it was refused and nothing was touched.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from restore_driver.errors import DriverError, Reason

ATTEMPT, MACHINE, OUTPUT = "The attempt", "This machine", "Output"
FAILED, REFUSED = 1, 2

Deadlines = Annotated[
    list[str] | None,
    typer.Option("--deadline", metavar="PHASE=SECONDS", help="Another deadline for a phase.", rich_help_panel=ATTEMPT),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.", rich_help_panel=OUTPUT)]
StateDirectory = Annotated[
    Path,
    typer.Option("--state", help="Journals and logs; only root's, best on tmpfs.", rich_help_panel=MACHINE),
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
_STATE = Path("/run/forethaw")


def checkpoint(
    pid: Annotated[int, typer.Argument(help="First process of the replica.")],
    artifact: Annotated[Path, typer.Argument(help="Directory to publish; an older one there is replaced at once.")],
    replica: SpecFile = None,
    end: Annotated[
        bool, typer.Option("--end/--leave-running", help="End the replica once published.", rich_help_panel=ATTEMPT)
    ] = False,
    compact: Annotated[bool, typer.Option(help="Drop zero pages from the image.", rich_help_panel=ATTEMPT)] = True,
    image_digest: Annotated[str | None, typer.Option(help="Container image of the replica.")] = None,
    engine_argument: Annotated[list[str] | None, typer.Option(help="An argument of the engine; repeat it.")] = None,
    deadline: Deadlines = None,
    state: StateDirectory = _STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Dump a live replica into a sealed artifact: quiesce, CUDA, CRIU, files, digests, one rename."""
    from restore_driver.requests import CheckpointRequest

    def make() -> CheckpointRequest:
        return CheckpointRequest(
            pid=pid,
            artifact=artifact.absolute(),
            replica=_replica(replica),
            leave_running=not end,
            compact=compact,
            image_digest=image_digest,
            engine_arguments=tuple(engine_argument or ()),
            deadlines_s=_deadlines(deadline),
        )

    _carry_out(make, state, agent, as_json)


def restore(
    artifact: Annotated[Path, typer.Argument(help="A verified and sealed artifact.")],
    into: Annotated[
        int | None, typer.Option(help="PID 1 of the placeholder; default: a new one.", rich_help_panel=ATTEMPT)
    ] = None,
    network: Annotated[
        str, typer.Option(help="Of a new placeholder: `host` or `private`.", rich_help_panel=ATTEMPT)
    ] = "host",
    pod_uid: Annotated[
        str | None, typer.Option(help="Keys the attempt, which is made once.", rich_help_panel=ATTEMPT)
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="UUID of a GPU to restore to; repeat it, in order.", rich_help_panel=MACHINE),
    ] = None,
    holder: Annotated[Path | None, typer.Option(help="Socket of the weights holder.", rich_help_panel=MACHINE)] = None,
    image_digest: Annotated[str | None, typer.Option(help="Container image of the placeholder.")] = None,
    huge_pages: Annotated[
        bool, typer.Option(help="Transparent huge pages `always` while CRIU restores.", rich_help_panel=MACHINE)
    ] = False,
    verify: Annotated[
        bool, typer.Option(help="Verify all digests, not just the seal.", rich_help_panel=ATTEMPT)
    ] = False,
    deadline: Deadlines = None,
    state: StateDirectory = _STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Restore an artifact into a placeholder, prove it, and say where it runs."""
    from restore_driver.requests import RestoreRequest

    made = None if into is not None else _make_placeholder(network)

    def make() -> RestoreRequest:
        return RestoreRequest(
            artifact=artifact.absolute(),
            placeholder_pid=into or made or 0,
            pod_uid=pod_uid,
            gpus=tuple(gpu or ()),
            holder=holder,
            image_digest=image_digest,
            restored_huge_pages=huge_pages,
            verify=verify,
            deadlines_s=_deadlines(deadline),
        )

    try:
        _carry_out(make, state, agent, as_json)
    except typer.Exit as ending:
        if ending.exit_code and made is not None:
            _end_placeholder(made)
        raise


def park(
    pid: Annotated[int, typer.Argument(help="First process of the replica.")],
    replica: SpecFile = None,
    deadline: Deadlines = None,
    state: StateDirectory = _STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Move a live replica's CUDA state into host memory; its GPU memory is proven free."""
    from restore_driver.requests import ParkRequest

    _carry_out(
        lambda: ParkRequest(pid=pid, replica=_replica(replica), deadlines_s=_deadlines(deadline)), state, agent, as_json
    )


def unpark(
    pid: Annotated[int, typer.Argument(help="First process of the parked replica.")],
    holder: Annotated[Path | None, typer.Option(help="Socket of the weights holder.", rich_help_panel=MACHINE)] = None,
    deadline: Deadlines = None,
    state: StateDirectory = _STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Wake a parked replica and prove it."""
    from restore_driver.requests import UnparkRequest

    _carry_out(lambda: UnparkRequest(pid=pid, holder=holder, deadlines_s=_deadlines(deadline)), state, agent, as_json)


def serve_agent(
    socket: Annotated[Path | None, typer.Option(help="Where to listen; default: STATE/agent.sock.")] = None,
    state: StateDirectory = _STATE,
) -> None:
    """Serve requests on a local socket, with everything started beforehand; takes back what a killed one left."""
    from restore_driver.agent.server import Agent

    try:
        driver = _driver(state)
        for recovered in driver.recover():
            typer.echo(f"took back {recovered.attempt}: {', '.join(recovered.undone) or 'nothing to undo'}", err=True)
        agent = Agent(driver, socket or state / "agent.sock")
        agent.listen()
    except DriverError as error:
        _refuse(error)
    agent.stop_on_signals()
    agent.serve(lambda: typer.echo(f"ready on {agent.path}"))


def recover(state: StateDirectory = _STATE, as_json: AsJson = False) -> None:
    """Take back what a killed driver left half done; agents do it when they start."""
    import dataclasses

    done = [dataclasses.asdict(each) for each in _driver(state).recover()]
    if as_json:
        typer.echo(json.dumps(done))
    for each in [] if as_json else done:
        typer.echo(f"{each['attempt']}: {', '.join(each['undone']) or 'nothing to undo'}")
    if any(each["errors"] for each in done):
        raise typer.Exit(FAILED)


def placeholder(
    network: Annotated[str, typer.Option(help="`host` or `private`.")] = "private",
    root: Annotated[Path, typer.Option(help="Directory that becomes its root.")] = Path("/"),
) -> None:
    """Make an empty placeholder with namespaces of its own and print its PID; `kill -9 PID` ends it."""
    typer.echo(_make_placeholder(network, root))


def _carry_out(make: Callable[[], Any], state: Path, agent: Path | None, as_json: bool) -> None:
    from restore_driver.agent.client import ask
    from restore_driver.report import Progress, print_result

    try:
        request = make()
        socket = agent or state / "agent.sock"
        with Progress(quiet=as_json) as progress:
            if agent is not None or socket.exists():
                result = ask(socket, request, 3600.0, progress.observe)
            else:
                driver = _driver(state)
                driver.recover()
                result = driver.carry_out(request, progress.observe)
    except DriverError as error:
        _refuse(error, as_json)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        _refuse(DriverError(Reason.REQUEST_INVALID, f"{where}: {first['msg']}, got {first['input']!r}"), as_json)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        print_result(result)
    if not result.ok:
        raise typer.Exit(REFUSED if result.outcome == "refused" else FAILED)


def _driver(state: Path) -> Any:
    from restore_driver.driver import Driver
    from restore_driver.tools import open_tools

    if os.geteuid() != 0:
        raise DriverError(Reason.REQUEST_INVALID, "checkpoint and restore need root", "run it as root")
    return Driver(open_tools(state))


def _replica(path: Path | None) -> Any:
    from restore_driver.replica_spec import ReplicaSpec, load_replica_spec

    return ReplicaSpec() if path is None else load_replica_spec(path)


def _deadlines(texts: list[str] | None) -> dict[str, float]:
    found = {}
    for text in texts or []:
        phase, _, seconds = text.partition("=")
        try:
            found[phase] = float(seconds)
        except ValueError:
            raise DriverError(
                Reason.REQUEST_INVALID, f"--deadline {text!r} is not PHASE=SECONDS", "for example criu-restore=5"
            ) from None
    return found


def _make_placeholder(network: str, root: Path = Path("/")) -> int:
    from restore_driver.placeholder.create import create

    if network not in ("host", "private"):
        _refuse(DriverError(Reason.REQUEST_INVALID, f"--network {network!r} is neither host nor private"))
    try:
        return create(network="host" if network == "host" else "private", root=root).pid
    except (DriverError, OSError) as error:
        _refuse(error if isinstance(error, DriverError) else DriverError(Reason.PLACEHOLDER_LOST, str(error)))


def _end_placeholder(pid: int) -> None:
    from restore_driver.placeholder.create import Placeholder

    Placeholder(pid).end()


def _refuse(error: DriverError, as_json: bool = False) -> NoReturn:
    if as_json:
        typer.echo(
            json.dumps({"outcome": "refused", "reason": error.reason, "detail": error.detail, "mend": error.mend})
        )
    print(error, file=sys.stderr)
    raise typer.Exit(REFUSED)


COMMANDS: dict[str, Callable[..., None]] = {
    "checkpoint": checkpoint,
    "restore": restore,
    "park": park,
    "unpark": unpark,
    "agent": serve_agent,
    "recover": recover,
    "placeholder": placeholder,
}
PANEL = "Checkpoint and restore"


def add_commands(app: typer.Typer) -> None:
    """Adds the room's commands to an application."""
    for name, command in COMMANDS.items():
        app.command(name, rich_help_panel=PANEL)(command)
