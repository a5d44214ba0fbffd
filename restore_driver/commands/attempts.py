"""`forethaw checkpoint | restore | park | unpark`: options become one request.

The resident agent carries it out if one serves, else this process does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from restore_driver.commands.daemons import end_placeholder, make_placeholder
from restore_driver.commands.options import (
    ATTEMPT,
    MACHINE,
    STATE,
    AgentSocket,
    AsJson,
    Deadlines,
    Gpus,
    HolderSocket,
    SpecFile,
    StateDirectory,
)
from restore_driver.commands.run_request import carry_out
from restore_driver.errors import DriverError, Reason


def checkpoint(
    pid: Annotated[int, typer.Argument(help="First process of the replica.")],
    artifact: Annotated[Path, typer.Argument(help="Directory to publish; an older one there is replaced at once.")],
    replica: SpecFile = None,
    end: Annotated[
        bool, typer.Option("--end/--leave-running", help="End the replica once published.", rich_help_panel=ATTEMPT)
    ] = False,
    compact: Annotated[
        bool, typer.Option(help="Drop zero pages, and set large memory apart.", rich_help_panel=ATTEMPT)
    ] = True,
    image_digest: Annotated[str | None, typer.Option(help="Container image of the replica.")] = None,
    engine_argument: Annotated[list[str] | None, typer.Option(help="An argument of the engine; repeat it.")] = None,
    gpu: Gpus = None,
    holder: HolderSocket = None,
    deadline: Deadlines = None,
    state: StateDirectory = STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Dump a live replica into a sealed artifact: quiesce, CUDA, CRIU, files, digests, one rename."""
    from restore_driver.wire.requests import CheckpointRequest

    def make() -> CheckpointRequest:
        return CheckpointRequest(
            pid=pid,
            artifact=artifact.absolute(),
            replica=_replica(replica),
            leave_running=not end,
            compact=compact,
            image_digest=image_digest,
            engine_arguments=tuple(engine_argument or ()),
            gpus=tuple(gpu or ()),
            holder=holder,
            deadlines_s=_deadlines(deadline),
        )

    carry_out(make, state, agent, as_json)


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
    gpu: Gpus = None,
    holder: HolderSocket = None,
    image_digest: Annotated[str | None, typer.Option(help="Container image of the placeholder.")] = None,
    engine_argument: Annotated[
        list[str] | None, typer.Option(help="Refuse a snapshot whose engine had other arguments; repeat it.")
    ] = None,
    huge_pages: Annotated[
        bool, typer.Option(help="Transparent huge pages `always` while CRIU restores.", rich_help_panel=MACHINE)
    ] = False,
    verify: Annotated[
        bool, typer.Option(help="Verify all digests, not just the seal.", rich_help_panel=ATTEMPT)
    ] = False,
    deadline: Deadlines = None,
    state: StateDirectory = STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Restore an artifact into a placeholder, prove it, and say where it runs."""
    from restore_driver.wire.requests import RestoreRequest

    made = None if into is not None else make_placeholder(network, as_json=as_json)

    def make() -> RestoreRequest:
        return RestoreRequest(
            artifact=artifact.absolute(),
            placeholder_pid=into or made or 0,
            pod_uid=pod_uid,
            gpus=tuple(gpu or ()),
            holder=holder,
            image_digest=image_digest,
            engine_arguments=None if engine_argument is None else tuple(engine_argument),
            restored_huge_pages=huge_pages,
            verify=verify,
            deadlines_s=_deadlines(deadline),
        )

    try:
        carry_out(make, state, agent, as_json)
    except typer.Exit as ending:
        if ending.exit_code and made is not None:
            end_placeholder(made)
        raise


def park(
    pid: Annotated[int, typer.Argument(help="First process of the replica.")],
    replica: SpecFile = None,
    holder: HolderSocket = None,
    huge_pages: Annotated[
        bool,
        typer.Option(help="Transparent huge pages `always` while the state is moved.", rich_help_panel=MACHINE),
    ] = False,
    deadline: Deadlines = None,
    state: StateDirectory = STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Move a live replica's CUDA state into host memory; its GPU memory is proven free."""
    from restore_driver.wire.requests import ParkRequest

    carry_out(
        lambda: ParkRequest(
            pid=pid,
            replica=_replica(replica),
            holder=holder,
            huge_pages=huge_pages,
            deadlines_s=_deadlines(deadline),
        ),
        state,
        agent,
        as_json,
    )


def unpark(
    pid: Annotated[int, typer.Argument(help="First process of the parked replica.")],
    holder: HolderSocket = None,
    deadline: Deadlines = None,
    state: StateDirectory = STATE,
    agent: AgentSocket = None,
    as_json: AsJson = False,
) -> None:
    """Wake a parked replica and prove it."""
    from restore_driver.wire.requests import UnparkRequest

    carry_out(lambda: UnparkRequest(pid=pid, holder=holder, deadlines_s=_deadlines(deadline)), state, agent, as_json)


def _replica(path: Path | None) -> Any:
    from restore_driver.spec_file import load_replica_spec
    from restore_driver.wire.replica_spec import ReplicaSpec

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
