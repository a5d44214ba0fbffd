"""The table of options of `forethaw checkpoint | restore | park | unpark`, and the request that each command becomes.

Two parsers read it: `attempts.py` makes typer's commands of it, which help, complete and explain errors; `light.py`
parses with the standard library, for a restore that must not wait for imports. So nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from restore_driver.errors import DriverError, Reason
from restore_driver.wire.api_version import API_VERSION

Kind = Literal["number", "path", "switch", "text", "texts"]
Values = Mapping[str, Any]
"""By parameter: int, Path, bool, str, list of str; None where an option was not given."""

ATTEMPT, MACHINE, OUTPUT = "The attempt", "This machine", "Output"
STATE = Path("/run/forethaw")
LONGEST_ATTEMPT_S = 3600.0
"""For the whole conversation with the agent; each phase has a deadline of its own."""


class Argument(NamedTuple):
    """A positional argument; all are required."""

    name: str
    kind: Kind
    help: str


class Option(NamedTuple):
    """An option; `on` is its spelling, `off` the spelling that negates a switch."""

    name: str
    on: str
    kind: Kind
    help: str
    panel: str | None = None
    default: Any = None
    off: str | None = None
    metavar: str | None = None
    readable: bool = True
    """Refuse a path that exists and cannot be read; False where the command itself explains it better."""


class AttemptCommand(NamedTuple):
    """A command: what it takes, and `message`, which makes the request's JSON members of its values."""

    name: str
    help: str
    examples: tuple[str, ...]
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    message: Callable[[Values], dict[str, Any]]


AS_JSON = Option("as_json", "--json", "switch", "Print the whole result as JSON.", OUTPUT, default=False)
STATE_DIRECTORY = Option(
    "state",
    "--state",
    "path",
    "Directory of journals and logs; owned by root, best on tmpfs.",
    MACHINE,
    STATE,
    readable=False,
)
_AGENT = Option("agent", "--agent", "path", "Socket of the agent; default: STATE/agent.sock if one serves.", MACHINE)
_HOLDER = Option("holder", "--holder", "path", "Socket of the weights holder.", MACHINE)
_REPLICA = Option("replica", "--replica", "path", "Replica spec: engine hooks and proof (TOML or JSON).", ATTEMPT)
_GPU = Option("gpu", "--gpu", "texts", "A GPU of the replica; repeat it, in its order.", MACHINE, metavar="UUID")
_DEADLINE = Option(
    "deadline", "--deadline", "texts", "Override the deadline of a phase.", ATTEMPT, metavar="PHASE=SECONDS"
)
_END_OF_ALL = (_DEADLINE, STATE_DIRECTORY, _AGENT, AS_JSON)


def _switch(name: str, text: str, panel: str, *, default: bool = False) -> Option:
    word = name.replace("_", "-")
    return Option(name, f"--{word}", "switch", text, panel, default, f"--no-{word}")


def _checkpoint(given: Values) -> dict[str, Any]:
    return {
        "do": "checkpoint",
        "pid": given["pid"],
        "artifact": str(given["artifact"].absolute()),
        "replica": given["replica"],
        "leave_running": not given["end"],
        "compact": given["compact"],
        "image_digest": given["image_digest"],
        "engine_arguments": list(given["engine_argument"] or ()),
        "gpus": list(given["gpu"] or ()),
        **_common(given),
    }


def _restore(given: Values) -> dict[str, Any]:
    expected = given["engine_argument"]
    return {
        "do": "restore",
        "artifact": str(given["artifact"].absolute()),
        "placeholder_pid": given["into"],
        "pod_uid": given["pod_uid"],
        "gpus": list(given["gpu"] or ()),
        "image_digest": given["image_digest"],
        "engine_arguments": None if expected is None else list(expected),
        "restored_huge_pages": given["huge_pages"],
        "verify": given["verify"],
        **_common(given),
    }


def _park(given: Values) -> dict[str, Any]:
    return {
        "do": "park",
        "pid": given["pid"],
        "replica": given["replica"],
        "huge_pages": given["huge_pages"],
        **_common(given),
    }


def _unpark(given: Values) -> dict[str, Any]:
    return {"do": "unpark", "pid": given["pid"], **_common(given)}


def _common(given: Values) -> dict[str, Any]:
    """Return the members of every request; paths are absolute, since the agent has its own working directory."""
    holder = given["holder"]
    return {
        "api_version": API_VERSION,
        "holder": None if holder is None else str(holder.absolute()),
        "deadlines_s": deadlines(given["deadline"]),
    }


def deadlines(texts: list[str] | None) -> dict[str, float]:
    """Parse `PHASE=SECONDS` texts into seconds by phase; the last one of a phase wins.

    Raises:
        DriverError: REQUEST_INVALID for a text of another form.
    """
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


COMMANDS = {
    command.name: command
    for command in (
        AttemptCommand(
            "checkpoint",
            "Dump a live replica into a sealed artifact: quiesce, CUDA, CRIU, files, digests, one rename.",
            (
                "forethaw checkpoint 4242 /var/lib/forethaw/llama --replica llama.toml",
                "forethaw checkpoint 4242 /var/lib/forethaw/llama --replica llama.toml --end --json",
            ),
            (
                Argument("pid", "number", "First process of the replica."),
                Argument("artifact", "path", "Directory to publish; an older one there is replaced at once."),
            ),
            (
                _REPLICA,
                Option(
                    "end",
                    "--end",
                    "switch",
                    "End the replica once published.",
                    ATTEMPT,
                    default=False,
                    off="--leave-running",
                ),
                _switch("compact", "Drop zero pages and offload large memory.", ATTEMPT, default=True),
                Option("image_digest", "--image-digest", "text", "Container image of the replica.", ATTEMPT),
                Option(
                    "engine_argument", "--engine-argument", "texts", "An argument of the engine; repeat it.", ATTEMPT
                ),
                _GPU,
                _HOLDER,
                *_END_OF_ALL,
            ),
            _checkpoint,
        ),
        AttemptCommand(
            "restore",
            "Restore an artifact into a placeholder, prove it, and print where it runs.",
            (
                "forethaw restore /var/lib/forethaw/llama",
                "forethaw restore /var/lib/forethaw/llama --into 5151 --pod-uid 0b6c --deadline criu-restore=5 --json",
            ),
            (Argument("artifact", "path", "A verified and sealed artifact."),),
            (
                Option("into", "--into", "number", "PID 1 of the placeholder; default: a new one.", ATTEMPT),
                Option("network", "--network", "text", "Of a new placeholder: `host` or `private`.", ATTEMPT, "host"),
                Option("pod_uid", "--pod-uid", "text", "Key of the attempt, which is made at most once.", ATTEMPT),
                _GPU,
                _HOLDER,
                Option("image_digest", "--image-digest", "text", "Container image of the placeholder.", ATTEMPT),
                Option(
                    "engine_argument",
                    "--engine-argument",
                    "texts",
                    "Refuse a snapshot whose engine had other arguments; repeat it.",
                    ATTEMPT,
                ),
                _switch("huge_pages", "Transparent huge pages `always` while CRIU restores.", MACHINE),
                _switch("verify", "Verify all digests, not just the seal.", ATTEMPT),
                *_END_OF_ALL,
            ),
            _restore,
        ),
        AttemptCommand(
            "park",
            "Move a live replica's CUDA state into host memory; its GPU memory is proven free.",
            ("forethaw park 4242 --replica llama.toml", "forethaw park 4242 --replica llama.toml --huge-pages --json"),
            (Argument("pid", "number", "First process of the replica."),),
            (
                _REPLICA,
                _HOLDER,
                _switch("huge_pages", "Transparent huge pages `always` while the state moves.", MACHINE),
                *_END_OF_ALL,
            ),
            _park,
        ),
        AttemptCommand(
            "unpark",
            "Wake a parked replica and prove it.",
            ("forethaw unpark 4242", "forethaw unpark 4242 --holder /run/weights/holder.sock --json"),
            (Argument("pid", "number", "First process of the parked replica."),),
            (_HOLDER, *_END_OF_ALL),
            _unpark,
        ),
    )
}
