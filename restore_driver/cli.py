"""The restore driver's commands by panel of the help; each lives in a module of `commands/`.

The entry-point group `forethaw.commands` names this module: `forethaw` shows these commands beside those of the other
packages, and `python -m restore_driver` shows them alone.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from restore_driver.commands import artifacts, daemons, doctor, holder, storage
from restore_driver.commands.attempts import ATTEMPTS

NEEDS = ("blake3", "numpy", "obstore", "zstandard")
"""Modules that the extra brings."""

COMMANDS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Checkpoint and restore a replica": {**ATTEMPTS},
    "Run a node": {
        "doctor": doctor.doctor,
        "agent": daemons.serve_agent,
        "holder": holder.app,
        "placeholder": daemons.placeholder,
        "recover": daemons.recover,
    },
    "Keep artifacts": {
        "inspect": artifacts.inspect,
        "verify": artifacts.verify,
        "compact": artifacts.compact,
        "push": storage.push,
        "stage": storage.stage,
        "list": storage.list_snapshots,
        "prune": storage.prune,
    },
}
EXAMPLES = (
    "forethaw doctor",
    "forethaw checkpoint 4242 /var/lib/forethaw/llama --replica llama.toml --end",
    "forethaw restore /var/lib/forethaw/llama",
)


def application() -> typer.Typer:
    """Make an application of these commands alone."""
    app = typer.Typer(
        name="restore_driver",
        help="Checkpoint, restore and park replicas of GPU inference engines.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    for panel, commands in COMMANDS.items():
        for name, command in commands.items():
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name, rich_help_panel=panel)
            else:
                app.command(name, rich_help_panel=panel)(command)
    return app
