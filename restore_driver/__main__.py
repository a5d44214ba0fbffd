"""`python -m restore_driver`: the driver's commands alone, for nodes and restore pods without the simulator."""

from __future__ import annotations

import typer

from restore_driver.cli import add_commands

app = typer.Typer(
    name="restore_driver",
    help="Checkpoint, restore and park replicas of GPU inference engines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
add_commands(app)

if __name__ == "__main__":
    app()
