"""The command line to people and to programs: what is wrong, what it was, what would fix it, and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from restore_driver.__main__ import app
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.artifact.conftest import publish
from tests.restore_driver.real.conftest import criu

__all__ = ["criu"]  # a fixture

ROOT = Path(__file__).parents[3]
NOBODY = 4194303
"""A PID that no process has: the last one that there may be."""


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Said]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the command line with a state directory of the test's own, in this process: it ends by exit, never by
    anything else."""

    def run(*words: str | Path | int) -> Said:
        result = CliRunner().invoke(app, [*map(str, words), "--state", str(tmp_path / "state")])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


SPECS = {
    "unknown engine": ('engine = { kind = "tgi" }', "engine", "'tgi'"),
    "unknown field": ('engine = { kind = "none" }\nspeed = 3', "speed", "3"),
    "wrong value": ('engine = { kind = "vllm", level = 3 }', "engine.vllm.level", "3"),
    "not HTTP": (
        '[[proof.requests]]\ncall = { url = "https://x/" }\nexpect = { kind = "same_as_before" }',
        "proof.requests.0.call.url",
        "'https://x/'",
    ),
    "no regular expression": (
        '[[proof.requests]]\ncall = { url = "http://x/" }\nexpect = { kind = "regex", pattern = "(" }',
        "pattern",
        "'('",
    ),
    "nothing that proves it": (
        'engine = { kind = "http", quiesce = [{ url = "http://x/" }], resume = [{ url = "http://x/" }] }',
        "the spec",
        "proof.requests",
    ),
    "no TOML": ("engine = {", "spec.toml", ""),
}


@pytest.mark.parametrize("what", SPECS)
def test_a_wrong_spec_is_refused_with_file_field_value_and_hint(what: str, command: Command, tmp_path: Path) -> None:
    text, field, value = SPECS[what]
    spec = tmp_path / "spec.toml"
    spec.write_text(text)
    said = command("checkpoint", os.getpid(), tmp_path / "snapshot", "--replica", spec, "--json")

    assert (said.code, set(said.json)) == (2, {"outcome", "reason", "detail", "hint"})
    assert (said.json["outcome"], said.json["reason"]) == ("refused", "RequestInvalid")
    assert said.json["detail"].startswith(f"{spec}: ")
    assert field in said.json["detail"] and value in said.json["detail"] and said.json["hint"]
    assert said.error.strip() == str(DriverError(Reason.REQUEST_INVALID, said.json["detail"], said.json["hint"]))
    assert not (tmp_path / "snapshot").exists()


@pytest.mark.parametrize(
    ("deadline", "named"),
    [
        ("criu-restore", "'criu-restore' is not PHASE=SECONDS"),
        ("criu-restore=soon", "'criu-restore=soon' is not PHASE=SECONDS"),
        ("=5", "phase ''"),
        ("tea=5", "no phase 'tea'; the phases are capture-files, "),
        ("gate=0", "deadlines_s.gate: "),
        ("gate=-1", "deadlines_s.gate: "),
        ("gate=nan", "deadlines_s.gate: "),
    ],
)
def test_a_bad_deadline_is_refused_by_name(deadline: str, named: str, command: Command, tmp_path: Path) -> None:
    said = command("checkpoint", NOBODY, tmp_path / "snapshot", "--deadline", deadline, "--json")

    assert (said.code, said.json["reason"]) == (2, "RequestInvalid")
    assert named in said.json["detail"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("checkpoint", NOBODY, "{tmp}/snapshot"), "ReplicaLost"),
        (("checkpoint", 1, "{tmp}/snapshot"), "RequestInvalid"),
        (("restore", "{tmp}/artifact", "--into", 1), "RequestInvalid"),
        (("restore", "{tmp}/artifact", "--into", NOBODY), "PlaceholderLost"),
        (("restore", "{tmp}/nothing", "--into", NOBODY), "NotTrusted"),
        (("restore", "{tmp}", "--into", NOBODY), "ManifestInvalid"),
        (("restore", "{tmp}/artifact", "--into", NOBODY, "--pod-uid", "../x"), "RequestInvalid"),
        (("restore", "{tmp}/artifact", "--network", "fast"), "RequestInvalid"),
        (("park", NOBODY), "ReplicaLost"),
        (("unpark", NOBODY), "RequestInvalid"),
        (("unpark", NOBODY, "--agent", "{tmp}/no.sock"), "NotTrusted"),
    ],
)
def test_a_refusal_is_json_for_programs_and_a_sentence_for_people(
    words: tuple[str | int, ...], reason: str, command: Command, tmp_path: Path
) -> None:
    """Exit code 2: nothing was touched. Both say the same."""
    publish(tmp_path / "artifact")
    given = [str(word).format(tmp=tmp_path) for word in words]
    programs, people = command(*given, "--json"), command(*given)

    assert (programs.code, people.code) == (2, 2)
    assert (programs.json["outcome"], programs.json["reason"], bool(programs.json["detail"])) == (
        "refused",
        reason,
        True,
    )
    assert reason in people.out + people.error
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["artifact"]


def test_a_checkpoint_that_goes_well_exits_with_0_and_one_that_fails_with_1(command: Command, tmp_path: Path) -> None:
    null = subprocess.DEVNULL
    replica = subprocess.Popen(["sleep", "1000"], stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/")
    try:
        failed = command("checkpoint", replica.pid, tmp_path / "one", "--deadline", "criu-dump=0.000001", "--json")
        people = command("checkpoint", replica.pid, tmp_path / "one", "--deadline", "criu-dump=0.000001")
        went_well = command("checkpoint", replica.pid, tmp_path / "two", "--json")
        goes_on = replica.poll() is None
    finally:
        replica.kill()
        replica.wait()

    assert (failed.code, failed.json["outcome"], failed.json["reason"]) == (1, "failed", "DeadlineExceeded")
    assert (people.code, "DeadlineExceeded in criu-dump: " in people.out) == (1, True)
    assert (went_well.code, went_well.json["outcome"], went_well.error) == (0, "published", "")
    assert (goes_on, sorted(path.name for path in tmp_path.iterdir())) == (True, ["state", "two", "two.seal"])


WORDS = [
    ("checkpoint", "12", "/tmp/never", "--json"),
    ("restore", "/tmp/never", "--into", "12", "--json"),
    ("restore", "/tmp/never", "--json"),
    ("park", "12", "--json"),
    ("unpark", "12", "--json"),
    ("recover", "--json"),
    ("agent",),
    ("placeholder",),
]


@pytest.mark.parametrize("words", WORDS)
def test_who_is_not_root_is_told_so(words: tuple[str, ...]) -> None:
    """In a user's own interpreter: this one may lie where only root may go."""
    code = (
        "import os, sys; import restore_driver.cli, restore_driver.driver, restore_driver.toolset\n"
        "import restore_driver.spec_file\n"
        "import restore_driver.commands.console, restore_driver.placeholder.create\n"
        "import restore_driver.agent.client, restore_driver.agent.server\n"
        "os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
        "from restore_driver.__main__ import app; app(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", code, *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode, "root" in done.stderr) == (2, True), done.stderr
    if "--json" in words:
        assert json.loads(done.stdout)["outcome"] == "refused"
