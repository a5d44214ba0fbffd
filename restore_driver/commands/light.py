"""`forethaw checkpoint | restore | park | unpark` through an agent, without heavy imports.

typer, rich and pydantic take several times as long to import as the request takes to send, and a restore waits for
them. So the words are parsed here with the standard library, by the same table that typer's commands are made from,
and the agent, which has everything imported, validates the request. Everything else is declined before anything is
begun: a usage error, `--help`, no agent, a request that the agent refuses as invalid. The full command then runs from
the start and explains it.
"""

from __future__ import annotations

import getopt
import json
import os
import sys
from pathlib import Path
from typing import Any

from restore_driver.agent.client import converse, serves
from restore_driver.commands.option_table import COMMANDS, LONGEST_ATTEMPT_S, AttemptCommand, Kind, Option, Values
from restore_driver.commands.outcome import REFUSED, print_error, print_outcome
from restore_driver.commands.progress import Progress
from restore_driver.errors import DriverError, Reason

INTERRUPTED = 130


class Declined(Exception):  # noqa: N818 - not an error: the full command runs instead
    """The full command must run: to explain what is wrong, or to work without an agent."""


def run(words: list[str]) -> int | None:
    """Carry out a command line through the agent, print the result and return the exit code; None if declined."""
    try:
        return _flushed(_run(words))
    except Declined:
        return None
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the output's reader has closed it; the interpreter's final flush must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _flushed(exit_code: int) -> int:
    """Flush standard output while a closed pipe can still be handled, and return `exit_code`."""
    sys.stdout.flush()
    return exit_code


def _run(words: list[str]) -> int:
    command = COMMANDS.get(words[0]) if words else None
    if command is None:
        raise Declined
    given = parse(command, words[1:])
    socket = given["agent"] or given["state"] / "agent.sock"
    if given["agent"] is None and not serves(socket):
        raise Declined
    if command.name == "restore" and given["into"] is None:
        return _restore_into_a_new_placeholder(command, given, socket)
    return _ask(command, socket, message_of(command, given), as_json=given["as_json"])


def _restore_into_a_new_placeholder(command: AttemptCommand, given: Values, socket: Path) -> int:
    if given["network"] not in ("host", "private"):
        raise Declined
    from restore_driver.placeholder.create import create

    message = message_of(command, given)  # first, as it may decline
    try:
        placeholder = create(network=given["network"])
    except (DriverError, OSError) as error:
        raise Declined from error
    exit_code = 1
    try:
        exit_code = _ask(command, socket, {**message, "placeholder_pid": placeholder.pid}, as_json=given["as_json"])
    finally:
        if exit_code:
            placeholder.end()
    return exit_code


def _ask(command: AttemptCommand, socket: Path, message: dict[str, Any], *, as_json: bool) -> int:
    try:
        with Progress(quiet=as_json) as progress:
            result = converse(socket, message, LONGEST_ATTEMPT_S, progress.observe)
    except DriverError as error:
        if error.reason is Reason.REQUEST_INVALID:
            raise Declined from error
        print_error(command.name, "refused", error, as_json=as_json)
        return REFUSED
    return print_outcome(result, as_json=as_json)


def message_of(command: AttemptCommand, given: Values) -> dict[str, Any]:
    """Return the request as JSON members, with the replica spec as its file has it.

    Raises:
        Declined: the spec cannot be read or sent as JSON, or a deadline is not PHASE=SECONDS.
    """
    try:
        loaded = {**given, "replica": _spec(given["replica"])} if "replica" in given else given
        message = command.message(loaded)
        json.dumps(message)
    except (DriverError, OSError, ValueError, TypeError, RecursionError) as error:
        raise Declined from error
    return message


def _spec(path: Path | None) -> Any:
    if path is None:
        return {}
    import tomllib  # a fifth of all imports, needed only where a spec is given

    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)


def parse(command: AttemptCommand, words: list[str]) -> dict[str, Any]:
    """Parse the words after a command's name into values by parameter name, exactly as typer does.

    Raises:
        Declined: for everything that typer refuses, and for some things that it accepts (`--` among them).
    """
    written = {spelling: option for option in command.options for spelling in (option.on, option.off) if spelling}
    for word in words:  # getopt completes abbreviations, typer does not
        if word.startswith("--") and word.partition("=")[0] not in written:
            raise Declined
    try:
        pairs, positional = getopt.gnu_getopt(words, "", [_for_getopt(name, written[name]) for name in written])
    except getopt.GetoptError as error:
        raise Declined from error
    if len(positional) != len(command.arguments) or any(word.startswith("-") for word in positional):
        raise Declined
    values: dict[str, Any] = {option.name: option.default for option in command.options}
    for argument, word in zip(command.arguments, positional, strict=True):
        values[argument.name] = _converted(argument.kind, word)
    for spelling, word in pairs:
        option = written[spelling]
        if option.kind == "switch":
            values[option.name] = spelling == option.on
        elif option.kind == "texts":
            values[option.name] = [*(values[option.name] or []), word]
        else:
            values[option.name] = _converted(option.kind, word, readable=option.readable)
    return values


def _for_getopt(spelling: str, option: Option) -> str:
    return spelling.removeprefix("--") + ("" if option.kind == "switch" else "=")


def _converted(kind: Kind, word: str, *, readable: bool = True) -> Any:
    if kind == "number":
        return _number(word)
    if kind != "path":
        return word
    path = Path(word)
    try:
        refused = readable and path.exists() and not os.access(path, os.R_OK)
    except OSError as error:
        raise Declined from error
    if refused:
        raise Declined
    return path


def _number(word: str) -> int:
    if not (word.isascii() and word.removeprefix("-").isdigit()):  # typer may take more spellings
        raise Declined
    try:
        return int(word)
    except ValueError as error:  # more digits than Python converts
        raise Declined from error
