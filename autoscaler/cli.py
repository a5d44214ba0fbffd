"""`forethaw`: the entry point of the one command line.

A word with a light command (entry-point group `forethaw.light`) is tried by it first: it either does the work with few
imports and returns an exit code, or declines with None. Everything else is `application.py`'s, which imports typer and
what the packages register. No package is imported by name here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

LIGHT_GROUP = "forethaw.light"
LightCommand = Callable[[list[str]], "int | None"]


def main() -> None:
    """Run the command line of this process and exit with its code: 0 done, 1 failed, 2 refused."""
    words = sys.argv[1:]
    light = light_command(words[0]) if words else None
    exit_code = None if light is None else light(words)
    if exit_code is None:
        from autoscaler.application import run

        exit_code = run()
    sys.exit(exit_code)


def light_command(name: str) -> LightCommand | None:
    """Load the light command of a name; None where there is none or its package cannot be imported."""
    module, _, attribute = light_targets().get(name, "").partition(":")
    if not module:
        return None
    try:
        command: LightCommand = getattr(import_module(module), attribute)
    except ImportError:
        return None
    return command


def light_targets() -> dict[str, str]:
    """Read `module:attribute` by name from the installed entry points of this distribution.

    importlib.metadata reads the same file, and would take as long to import as a light command takes in all.
    """
    for folder in map(Path, sys.path):
        for metadata in folder.glob("forethaw-*.dist-info"):
            return _section(metadata / "entry_points.txt")
    return {}


def _section(path: Path) -> dict[str, str]:
    found, inside = {}, False
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return {}
    for line in lines:
        name, equals, target = line.partition("=")
        if line.startswith("["):
            inside = line.strip() == f"[{LIGHT_GROUP}]"
        elif inside and equals:
            found[name.strip()] = target.strip()
    return found
