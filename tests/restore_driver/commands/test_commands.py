"""Errors of the command line, as text and as JSON: field, value, hint and exit code."""

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

from restore_driver.cli import application
from restore_driver.commands.outcome import error_result
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.result import Result
from tests.restore_driver.artifact.conftest import publish
from tests.restore_driver.real.conftest import criu

__all__ = ["criu"]  # a fixture

ROOT = Path(__file__).parents[3]
UNUSED_PID = 4194303
"""A PID that no process has: the largest that the kernel allows."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Ended]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run the command line in this process with a state directory of its own; any exception but an exit is raised."""

    def run(*words: str | Path | int) -> Ended:
        result = CliRunner().invoke(application(), [*map(str, words), "--state", str(tmp_path / "state")])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

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
    ended = command("checkpoint", os.getpid(), tmp_path / "snapshot", "--replica", spec, "--json")

    result = Result.model_validate(ended.json)
    assert (ended.code, result.sequence, result.outcome, result.reason) == (
        2,
        "checkpoint",
        "refused",
        "RequestInvalid",
    )
    assert result.detail is not None and result.hint is not None
    assert result.detail.startswith(f"{spec}: ")
    assert field in result.detail and value in result.detail and result.hint
    assert ended.error.strip() == str(DriverError(Reason.REQUEST_INVALID, result.detail, result.hint))
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
    ended = command("checkpoint", UNUSED_PID, tmp_path / "snapshot", "--deadline", deadline, "--json")

    assert (ended.code, ended.json["reason"]) == (2, "RequestInvalid")
    assert named in ended.json["detail"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("checkpoint", UNUSED_PID, "{tmp}/snapshot"), "ReplicaLost"),
        (("checkpoint", 1, "{tmp}/snapshot"), "RequestInvalid"),
        (("restore", "{tmp}/artifact", "--into", 1), "RequestInvalid"),
        (("restore", "{tmp}/artifact", "--into", UNUSED_PID), "PlaceholderLost"),
        (("restore", "{tmp}/nothing", "--into", UNUSED_PID), "NotTrusted"),
        (("restore", "{tmp}", "--into", UNUSED_PID), "ManifestInvalid"),
        (("restore", "{tmp}/artifact", "--into", UNUSED_PID, "--pod-uid", "../x"), "RequestInvalid"),
        (("restore", "{tmp}/artifact", "--network", "fast"), "RequestInvalid"),
        (("park", UNUSED_PID), "ReplicaLost"),
        (("unpark", UNUSED_PID), "RequestInvalid"),
        (("unpark", UNUSED_PID, "--agent", "{tmp}/no.sock"), "NotTrusted"),
    ],
)
def test_a_refusal_is_a_whole_result_as_json_and_one_line_as_text(
    words: tuple[str | int, ...], reason: str, command: Command, tmp_path: Path
) -> None:
    """Exit code 2: nothing was touched. Both name the same reason."""
    publish(tmp_path / "artifact")
    given = [str(word).format(tmp=tmp_path) for word in words]
    as_json, as_text = command(*given, "--json"), command(*given)
    result = Result.model_validate(as_json.json)

    assert (as_json.code, as_text.code) == (2, 2)
    assert (result.sequence, result.outcome, result.reason, bool(result.detail)) == (words[0], "refused", reason, True)
    assert as_json.json == result.model_dump(mode="json")
    assert reason in as_text.out + as_text.error
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["artifact"]


def test_error_results_have_every_member_of_the_wire_contract_in_its_order() -> None:
    """`error_result` is written by hand, so that a refusal needs no pydantic."""
    error = DriverError(Reason.STORE_UNREACHABLE, "s3://x: refused")
    written = error_result("push", "failed", error, 1.5)
    result = Result(
        sequence="push",
        outcome="failed",
        reason=Reason.STORE_UNREACHABLE,
        detail="s3://x: refused",
        total_s=1.5,
        unaccounted_s=1.5,
        phases=(),
    )

    assert list(written.items()) == list(result.model_dump(mode="json").items())


def test_a_successful_checkpoint_exits_with_0_and_a_failed_one_with_1(command: Command, tmp_path: Path) -> None:
    null = subprocess.DEVNULL
    replica = subprocess.Popen(["sleep", "1000"], stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/")
    try:
        failed = command("checkpoint", replica.pid, tmp_path / "one", "--deadline", "criu-dump=0.000001", "--json")
        as_text = command("checkpoint", replica.pid, tmp_path / "one", "--deadline", "criu-dump=0.000001")
        published = command("checkpoint", replica.pid, tmp_path / "two", "--json")
        runs_on = replica.poll() is None
    finally:
        replica.kill()
        replica.wait()

    assert (failed.code, failed.json["outcome"], failed.json["reason"]) == (1, "failed", "DeadlineExceeded")
    assert (as_text.code, "DeadlineExceeded in criu-dump: " in as_text.out) == (1, True)
    assert (published.code, published.json["outcome"], published.error) == (0, "published", "")
    assert (runs_on, sorted(path.name for path in tmp_path.iterdir())) == (True, ["state", "two", "two.seal"])


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
def test_commands_that_need_root_refuse_another_user(words: tuple[str, ...]) -> None:
    """Modules are imported before root is given up, since only root may be able to read them."""
    code = (
        "import os, sys; import restore_driver.cli, restore_driver.driver, restore_driver.toolset\n"
        "import restore_driver.spec_file\n"
        "import restore_driver.commands.light, restore_driver.placeholder.create\n"
        "import restore_driver.agent.client, restore_driver.agent.server\n"
        "os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
        "from restore_driver.__main__ import main; main()"
    )
    argv = [sys.executable, "-c", code, *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode, "root" in done.stderr) == (2, True), done.stderr
    if "--json" in words:
        assert json.loads(done.stdout)["outcome"] == "refused"
