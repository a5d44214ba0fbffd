"""The application behind `forethaw`: the commands that the installed packages register, under one help.

A package registers a module by an entry point of the group `forethaw.commands`, named as the extra that the module's
commands need; `CommandModule` says what it has. One whose extra is not installed is listed all the same, each of its
commands with the sentence that installs it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn, Protocol

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from autoscaler.input_error import InputError

COMMANDS_GROUP = "forethaw.commands"
DEBUG = "--debug"
UNEXPECTED, REFUSED = 1, 2
Command = Callable[..., None] | typer.Typer


class _ValueNamingGroup(TyperGroup):
    """Name the value in a usage error: typer names the option and the rule, and where help is."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message += f", got {error.__cause__.errors(include_url=False)[0]['input']!r}"
            raise


class CommandModule(Protocol):
    """What a registered module has."""

    NEEDS: tuple[str, ...]
    """Modules that the extra brings; it counts as installed when all can be found."""
    COMMANDS: Mapping[str, Mapping[str, Command]]
    """Commands and groups by panel of the help and name."""
    EXAMPLES: tuple[str, ...]
    """Command lines for the help of the whole."""


def run() -> int:
    """Run the command line of this process; return the exit code for bad input (2) and unexpected errors (1)."""
    try:
        application(registered())(standalone_mode=True)
    except InputError as error:
        print(f"forethaw: {error}", file=sys.stderr)
        return REFUSED
    except Exception as error:  # noqa: BLE001 - the last resort of a process: a sentence, not a traceback
        # Read from the words themselves: the error may have come before any option was parsed.
        if DEBUG in sys.argv[1:]:
            traceback.print_exc()
        else:
            print(f"forethaw: unexpected {type(error).__name__}: {error}", file=sys.stderr)
            print(f"This is a mistake of ours; `forethaw {DEBUG} ...` shows where.", file=sys.stderr)
        return UNEXPECTED
    return 0


def registered() -> dict[str, CommandModule | None]:
    """Load the modules of the entry-point group by extra; None for one that imports what is not installed."""
    found: dict[str, CommandModule | None] = {}
    for each in sorted(metadata.entry_points(group=COMMANDS_GROUP), key=lambda each: each.name):
        try:
            found[each.name] = each.load()
        except ModuleNotFoundError:
            found[each.name] = None
    return found


def application(modules: Mapping[str, CommandModule | None]) -> typer.Typer:
    """Make the application that has the commands of these modules."""
    app = typer.Typer(
        name="forethaw",
        cls=_ValueNamingGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        epilog=_epilog([module for module in modules.values() if module is not None]),
    )
    app.callback()(_root)
    for extra, module in modules.items():
        if module is None:
            _add_absent(app, extra, "Not installed", extra)
            continue
        absent = any(find_spec(name) is None for name in module.NEEDS)
        for panel, commands in module.COMMANDS.items():
            for name, command in commands.items():
                if absent:
                    _add_absent(app, name, panel, extra)
                else:
                    _add(app, name, panel, command)
    return app


def _add(app: typer.Typer, name: str, panel: str, command: Command) -> None:
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name, rich_help_panel=panel)
    else:
        app.command(name, rich_help_panel=panel)(command)


def _add_absent(app: typer.Typer, name: str, panel: str, extra: str) -> None:
    """Add a command that ends with exit code 2 whatever it is given, `--help` included."""
    sentence = f"needs pip install 'forethaw[{extra}]'"

    def refuse() -> NoReturn:
        print(f"forethaw: {name} {sentence}", file=sys.stderr)
        raise typer.Exit(REFUSED)

    app.command(
        name,
        help=sentence.replace("[", r"\["),  # not rich markup
        rich_help_panel=panel,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(refuse)


def _epilog(modules: list[CommandModule]) -> str:
    examples = [f"[bold]{line}[/bold]" for module in modules for line in module.EXAMPLES]
    codes = "Exit codes: 0 done; 1 failed, what was begun was undone; 2 refused, nothing was touched."
    return "\n\n".join(["Examples:", *examples, codes, "`forethaw COMMAND --help` has the examples of a command."])


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"forethaw {metadata.version('forethaw')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an unexpected error; goes before the command.")
    ] = False,
) -> None:
    """Predictive autoscaling with snapshot restore for GPU inference.

    Replay real traces through the production decision loop; checkpoint, restore and park real replicas.
    """
