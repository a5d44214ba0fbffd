"""The restore driver's commands, put together; each lives in a module of `commands/`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from restore_driver.commands import artifacts, attempts, doctor, holder, storage
from restore_driver.commands import daemons as residents

COMMANDS: dict[str, Callable[..., None]] = {
    "checkpoint": attempts.checkpoint,
    "restore": attempts.restore,
    "park": attempts.park,
    "unpark": attempts.unpark,
    "agent": residents.serve_agent,
    "verify": artifacts.verify,
    "compact": artifacts.compact,
    "inspect": artifacts.inspect,
    "recover": residents.recover,
    "placeholder": residents.placeholder,
    "doctor": doctor.doctor,
    "push": storage.push,
    "stage": storage.stage,
    "list": storage.list_snapshots,
    "prune": storage.prune,
}
GROUPS: dict[str, typer.Typer] = {"holder": holder.app}
PANEL = "Checkpoint and restore"


def add_commands(app: typer.Typer) -> None:
    """Adds the room's commands to an application."""
    for name, command in COMMANDS.items():
        app.command(name, rich_help_panel=PANEL)(command)
    for name, group in GROUPS.items():
        app.add_typer(group, name=name, rich_help_panel=PANEL)
