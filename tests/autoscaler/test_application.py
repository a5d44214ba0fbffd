"""The root of the command line: what packages register, what is missing, and what its help teaches."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Annotated, Any, cast

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from autoscaler import application as root
from autoscaler.cli import LIGHT_GROUP, light_command, light_targets


def greet(name: str) -> None:
    """Greet a name."""
    typer.echo(f"hello {name}")


def module(*needs: str, commands: dict[str, Callable[..., None] | typer.Typer] | None = None) -> root.CommandModule:
    """A registered module with one panel."""
    made = SimpleNamespace(
        NEEDS=needs, COMMANDS={"Panel": commands or {"greet": greet}}, EXAMPLES=("forethaw greet x",)
    )
    return cast("root.CommandModule", made)


def invoke(modules: dict[str, root.CommandModule | None], *words: str) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(root.application(modules), list(words))


def test_a_registered_command_and_a_registered_group_run() -> None:
    group = typer.Typer()
    group.command("greet")(greet)
    group.command("other")(greet)
    modules: dict[str, root.CommandModule | None] = {"plain": module("json"), "more": module(commands={"sub": group})}

    assert invoke(modules, "greet", "you").output == "hello you\n"
    assert invoke(modules, "sub", "greet", "you").output == "hello you\n"


def double(number: int, times: Annotated[int, typer.Option()] = 2) -> None:
    """Multiply a number."""
    typer.echo(number * times)


@pytest.mark.parametrize(
    ("words", "named"),
    [(("double", "four"), ("number", "'four'")), (("double", "4", "--times", "2x"), ("--times", "'2x'"))],
)
def test_a_usage_error_names_the_parameter_the_value_and_where_help_is(
    words: tuple[str, ...], named: tuple[str, ...]
) -> None:
    done = invoke({"plain": module(commands={"double": double, "greet": greet})}, *words)

    assert (done.exit_code, done.stdout) == (2, "")
    assert all(text in done.stderr for text in (*named, "double --help"))


@pytest.mark.parametrize("words", [("greet",), ("greet", "you"), ("greet", "--help"), ("greet", "--unknown=1", "-x")])
def test_a_command_whose_extra_is_not_installed_ends_with_2_and_the_sentence(words: tuple[str, ...]) -> None:
    done = invoke({"numerics": module("json", "no_such_module")}, *words)

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "forethaw: greet needs pip install 'forethaw[numerics]'\n"


def test_a_command_whose_extra_is_not_installed_is_listed_with_the_sentence() -> None:
    shown = invoke({"numerics": module("no_such_module"), "plain": module(commands={"wave": greet})}, "--help")

    assert shown.exit_code == 0
    assert "needs pip install 'forethaw[numerics]'" in shown.output
    assert "Greet a name." in shown.output


def test_a_module_that_cannot_be_imported_is_one_command_that_says_which_extra_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = metadata.EntryPoint("numerics", "no_such_module.commands", root.COMMANDS_GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])

    done = invoke(root.registered(), "numerics")

    assert (done.exit_code, done.stderr) == (2, "forethaw: numerics needs pip install 'forethaw[numerics]'\n")


def test_the_packages_register_their_commands_under_the_names_of_their_extras() -> None:
    modules = root.registered()
    extras = metadata.metadata("forethaw").get_all("Provides-Extra")

    assert set(modules) == {"driver", "simulator"}
    assert set(modules) <= set(extras or [])
    assert None not in modules.values()


def test_every_example_of_the_help_is_a_command_line_that_its_command_takes() -> None:
    commands = get_command(root.application(root.registered())).commands  # type: ignore[attr-defined]
    examples = [line for module in root.registered().values() if module is not None for line in module.EXAMPLES]
    shown = invoke(root.registered(), "--help").output

    assert examples
    for line in examples:
        program, name, *words = shlex.split(line)
        assert program == "forethaw"
        assert commands[name].make_context(name, words).params
        assert line in shown


def test_the_help_says_what_the_exit_codes_mean() -> None:
    shown = invoke(root.registered(), "--help").output

    assert "Exit codes: 0 done; 1 failed" in shown
    assert "2 refused" in shown


def test_light_commands_are_those_that_the_installed_entry_points_name() -> None:
    """Read without importlib.metadata, and equal to what it reads."""
    registered = {each.name: each.value for each in metadata.entry_points(group=LIGHT_GROUP)}

    assert registered
    assert light_targets() == registered
    for name, target in registered.items():
        command = light_command(name)
        assert command is not None
        assert f"{command.__module__}:{command.__name__}" == target
    assert light_command("simulate") is None


def test_light_commands_of_a_package_that_is_not_installed_are_left_to_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autoscaler.cli.light_targets", lambda: {"greet": "no_such_module:run"})

    assert light_command("greet") is None


def test_without_installed_metadata_there_are_no_light_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/nonexistent"])

    assert light_targets() == {}


def test_the_entry_point_itself_imports_neither_typer_nor_any_command() -> None:
    code = "import autoscaler.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}

    assert imported & {"importlib_metadata", "restore_driver", "rich", "simulations", "typer"} == set()
    assert "importlib.metadata" not in done.stdout.split()
