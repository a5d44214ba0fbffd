"""The light command line: it parses as typer does, sends the same request, prints the same, and imports little."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from typer.main import get_command

from restore_driver.agent.limits import LONGEST_LINE_BYTES
from restore_driver.commands import light
from restore_driver.commands.attempts import typer_command
from restore_driver.commands.option_table import COMMANDS, AttemptCommand, Kind, Option
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.unix_sockets import listen
from restore_driver.spec_file import load_replica_spec
from restore_driver.wire.api_version import API_VERSION
from restore_driver.wire.requests import AnyRequest
from restore_driver.wire.result import Result
from tests.restore_driver.waiting import PATIENCE_S, eventually

HEAVY = {"blake3", "numpy", "obstore", "pydantic", "pydantic_core", "rich", "structlog", "typer", "zstandard"}
WHOLE = "from autoscaler.cli import main; main()"
EVERY_COMMAND = sorted(COMMANDS)


# Both parsers


def typer_values(command: AttemptCommand, words: list[str]) -> dict[str, Any] | None:
    """Parse the words with typer; None for a usage error."""
    found: dict[str, Any] = {}
    app = typer.Typer()
    app.command()(typer_command(command, lambda _, values: found.update(values)))
    with suppress(Exception):
        get_command(app).main(words, standalone_mode=False)
    return found or None


def light_values(command: AttemptCommand, words: list[str]) -> dict[str, Any] | None:
    """Parse the words with the light parser; None where it declines."""
    try:
        return light.parse(command, words)
    except light.Declined:
        return None


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"])
PLAIN_TEXT = st.text(CHARACTERS, max_size=8).filter(lambda text: not text.startswith("--"))
VALUES: dict[Kind, st.SearchStrategy[str]] = {
    "number": st.integers(-5, 10**7).map(str),
    "path": st.sampled_from(["/tmp", "a//b/./c", "../x", "", "rel ative"]) | PLAIN_TEXT,
    "text": PLAIN_TEXT,
    "texts": PLAIN_TEXT | st.sampled_from(["gate=1", "--json", "-x"]),
}


def written(option: Option) -> st.SearchStrategy[list[str]]:
    """An option as a user may write it: in one word or two, either way of a switch."""
    if option.kind == "switch":
        return st.sampled_from([[word] for word in (option.on, option.off) if word])
    two = VALUES[option.kind].map(lambda value: [option.on, value])
    return two | VALUES[option.kind].map(lambda value: [f"{option.on}={value}"])


def positional(kind: Kind) -> st.SearchStrategy[list[str]]:
    return VALUES[kind].filter(lambda word: not word.startswith("-")).map(lambda word: [word])


@st.composite
def well_formed(draw: st.DrawFn, command: AttemptCommand) -> list[str]:
    """Arguments of a command in their order, options between them, any option any number of times."""
    pieces = [draw(positional(argument.kind)) for argument in command.arguments]
    for _ in range(draw(st.integers(0, 6))):
        option = draw(st.sampled_from(command.options))
        pieces.insert(draw(st.integers(0, len(pieces))), draw(written(option)))
    return [word for piece in pieces for word in piece]


NOISE = st.sampled_from(["--", "-x", "-", "--js", "--jso=1", "--json=yes", "--help", "--no-end", "--into", "7"])
SPELLINGS = st.sampled_from(["1_0", " 7", "+7", "007", "-0", "1.0", "\u0663", "--7", "9" * 5000, ""])
"""Of numbers, by which two converters may differ."""


@st.composite
def anything(draw: st.DrawFn, command: AttemptCommand) -> list[str]:
    """A command line with words dropped and noise put in."""
    words = draw(well_formed(command))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(words)))
        words[place : place + draw(st.integers(0, 1))] = draw(st.lists(NOISE | SPELLINGS, max_size=2))
    return words


@pytest.mark.parametrize("name", EVERY_COMMAND)
@given(data=st.data())
def test_the_light_parser_returns_typers_values_for_everything_that_it_accepts(name: str, data: st.DataObject) -> None:
    command = COMMANDS[name]
    words = data.draw(anything(command))
    values = light_values(command, words)

    if values is not None:
        assert values == typer_values(command, words)


@pytest.mark.parametrize("name", EVERY_COMMAND)
@given(data=st.data())
def test_both_parsers_accept_every_well_formed_command_line(name: str, data: st.DataObject) -> None:
    """A parser that declines everything would agree with typer as well."""
    command = COMMANDS[name]
    words = data.draw(well_formed(command))
    expected = typer_values(command, words)

    assert light_values(command, words) == expected
    assert expected is not None


# Both requests


REQUEST: TypeAdapter[Any] = TypeAdapter(AnyRequest)


def test_the_agent_reads_the_spec_that_the_light_command_line_sends_as_it_reads_the_file(tmp_path: Path) -> None:
    spec = Path(__file__).parents[3] / "examples" / "counter_server.toml"
    command = COMMANDS["park"]
    message = light.message_of(command, light.parse(command, ["12", "--replica", str(spec)]))

    assert REQUEST.validate_python(json.loads(json.dumps(message))).replica == load_replica_spec(spec)


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("unpark", ["12"], {"do": "unpark", "pid": 12}),
        (
            "restore",
            ["/a", "--into", "9", "--pod-uid", "p", "--deadline", "gate=2", "--engine-argument", "-x", "--verify"],
            {
                "do": "restore",
                "artifact": "/a",
                "placeholder_pid": 9,
                "pod_uid": "p",
                "deadlines_s": {"gate": 2.0},
                "engine_arguments": ["-x"],
                "verify": True,
            },
        ),
        (
            "checkpoint",
            ["12", "/a", "--end", "--no-compact", "--gpu", "g1", "--gpu", "g2", "--holder", "/h"],
            {
                "do": "checkpoint",
                "pid": 12,
                "artifact": "/a",
                "replica": {},
                "leave_running": False,
                "compact": False,
                "gpus": ["g1", "g2"],
                "holder": "/h",
            },
        ),
        ("park", ["12", "--huge-pages"], {"do": "park", "pid": 12, "replica": {}, "huge_pages": True}),
    ],
)
def test_a_command_line_becomes_the_expected_request(name: str, words: list[str], expected: dict[str, Any]) -> None:
    """An option that is not given has the request's own default."""
    message = light.message_of(COMMANDS[name], light.parse(COMMANDS[name], words))

    assert REQUEST.validate_python(message) == REQUEST.validate_python(expected)


# A whole command with an agent


PHASES = [
    {"phase": "gate", "began_s": 0.0, "took_s": 0.0012, "details": {"criu": "4.2.1", "sealed": True, "cuda": None}},
    {"phase": "criu-restore", "began_s": 0.1, "took_s": 0.113, "details": {"image_bytes": 700000000, "read_s": 0.02}},
    {"phase": "prove", "began_s": 0.2, "took_s": 0.041, "details": {"checks": [{"what": "it answers"}], "gpu": False}},
]


def result(**changes: Any) -> dict[str, Any]:
    """A result as the agent sends it."""
    plain = {
        "api_version": API_VERSION,
        "sequence": "restore",
        "outcome": "proven",
        "reason": None,
        "detail": None,
        "hint": None,
        "phase": None,
        "fallback": None,
        "total_s": 0.4567,
        "unaccounted_s": 1e-05,
        "phases": PHASES,
        "undone": [],
        "undo_errors": [],
        "warnings": [],
        "answer": {"host_pid": 4242, "path": "/tmp/ä [bold]"},
    }
    return {**plain, **changes}


FAILED = {"reason": "CriuRestoreFailed", "detail": "see the log", "phase": "criu-restore"}
ANSWERS = {
    "proven": (0, {"result": result(warnings=["/x could not be removed"])}),
    "failed": (
        1,
        {"result": result(outcome="failed", **FAILED, fallback="cold-start", undo_errors=["kill-restored: no"])},
    ),
    "refused": (2, {"result": result(outcome="refused", **FAILED, hint="do it again", phases=PHASES[:1])}),
    "of a newer agent": (0, {"result": result(api_version="forethaw.dev/v9", added={"later": True})}),
    "agent refuses the request": (2, {"error": {"reason": "RequestInvalid", "detail": "pid: wrong", "hint": ""}}),
    "agent refuses the client": (2, {"error": {"reason": "NotTrusted", "detail": "only root", "hint": ""}}),
    "agent ends": (2, None),
}


@dataclass
class FakeAgent:
    """An agent's socket that records requests and gives one answer to each."""

    path: Path
    answer: dict[str, Any] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    at_work: threading.Event | None = None
    """If given, each attempt ends once this is set."""

    def serve(self, stopping: threading.Event) -> None:
        with listen(self.path) as listener:
            listener.settimeout(0.05)
            while not stopping.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(PATIENCE_S)
                        stream = MessageStream(connection, LONGEST_LINE_BYTES)
                        message = stream.receive(PATIENCE_S)
                        if message is not None:
                            self.requests.append(message)
                            stream.send({"event": "begin", "phase": "gate"})
                            if self.at_work is not None:
                                self.at_work.wait(PATIENCE_S)
                            if self.answer is not None:
                                stream.send(self.answer)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    made = FakeAgent(tmp_path / "agent.sock")
    stopping = threading.Event()
    thread = threading.Thread(target=made.serve, args=(stopping,))
    thread.start()
    try:
        eventually(made.path.exists, "the fake agent's socket")
        yield made
    finally:
        stopping.set()
        thread.join()


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    error: str


Run = Callable[..., Ended]


def run(*words: str | Path, flags: tuple[str, ...] = ()) -> Ended:
    """Run the installed command's entry point in a process of its own."""
    argv = [sys.executable, *flags, "-c", WHOLE, *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("case", ANSWERS)
def test_output_and_exit_code_are_those_of_the_full_command(case: str, as_json: list[str], agent: FakeAgent) -> None:
    """`--debug` before the command bypasses the light command line."""
    code, agent.answer = ANSWERS[case]
    words = ["unpark", "12", "--state", str(agent.path.parent), *as_json]
    quick, full = run(*words), run("--debug", *words)

    assert quick == full
    assert quick.code == code
    assert "Traceback" not in quick.error
    assert REQUEST.validate_python(agent.requests[0]) == REQUEST.validate_python(agent.requests[-1])
    assert [request["api_version"] for request in agent.requests] == [API_VERSION] * len(agent.requests)
    if as_json and "result" in (agent.answer or {}):
        assert agent.answer is not None
        assert json.loads(quick.out) == agent.answer["result"]
    elif as_json:
        assert Result.model_validate_json(quick.out).outcome == "refused"


@pytest.mark.parametrize("words", [["unpark", "12"], ["park", "12"], ["restore", "/a", "--into", "9"]])
def test_none_of_the_heavy_packages_is_imported(words: list[str], agent: FakeAgent) -> None:
    _, agent.answer = ANSWERS["proven"]
    done = run(*words, "--agent", agent.path, flags=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in done.error.splitlines() if line.startswith("import time:")}

    assert (done.code, len(agent.requests)) == (0, 1)
    assert "restore_driver.commands.option_table" in imported
    assert {name.partition(".")[0] for name in imported} & HEAVY == set()
    assert (
        imported & {"restore_driver.cli", "restore_driver.driver", "importlib.metadata", "autoscaler.application"}
        == set()
    )


@pytest.mark.parametrize(
    ("words", "code", "explanation"),
    [
        (["unpark", "--help"], 0, "Wake a parked replica"),
        (["unpark", "twelve"], 2, "twelve"),
        (["unpark", "12", "--speed", "3"], 2, "--speed"),
        (["unpark", "12", "--deadline", "gate"], 2, "'gate' is not PHASE=SECONDS"),
        (["park", "12", "--replica", "/nonexistent.toml"], 2, "/nonexistent.toml"),
        (["restore", "/a", "--network", "fast"], 2, "neither host nor private"),
    ],
)
def test_an_invalid_command_line_is_explained_by_the_full_command_and_not_sent(
    words: list[str], code: int, explanation: str, agent: FakeAgent
) -> None:
    done = run(*words, "--state", agent.path.parent)

    assert done.code == code
    assert explanation in done.out + done.error
    assert agent.requests == []


def test_an_interrupted_command_ends_with_130_and_no_traceback(agent: FakeAgent) -> None:
    agent.at_work = threading.Event()
    argv = [sys.executable, "-c", WHOLE, "unpark", "12", "--agent", str(agent.path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: agent.requests, "the request")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE_S)
    agent.at_work.set()

    assert (process.returncode, out, error) == (130, "", "")


def test_a_closed_output_pipe_ends_the_command_with_1_and_no_traceback(agent: FakeAgent) -> None:
    _, agent.answer = ANSWERS["proven"]
    argv = [sys.executable, "-c", WHOLE, "unpark", "12", "--agent", str(agent.path)]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(argv, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False)

    assert (done.returncode, done.stderr) == (1, "")


def test_the_light_command_line_declines_without_an_agent(tmp_path: Path) -> None:
    assert light.run(["unpark", "12", "--state", str(tmp_path)]) is None
    assert light.run(["doctor"]) is None
    assert light.run([]) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="a placeholder needs root")
@pytest.mark.parametrize(("case", "stays"), [("proven", True), ("failed", False), ("agent ends", False)])
def test_a_new_placeholder_is_kept_after_a_successful_restore_and_ended_after_any_other(
    case: str, stays: bool, agent: FakeAgent
) -> None:
    code, agent.answer = ANSWERS[case]
    done = run("restore", "/a", "--agent", agent.path)
    pid = agent.requests[0]["placeholder_pid"]

    assert done.code == code
    if stays:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}/exe").exists(), "the end of the placeholder")
