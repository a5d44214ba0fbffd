"""verify, compact and inspect on a real artifact, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from restore_driver.artifact.seal import check_seal
from tests.restore_driver.real.conftest import ROOT, Place, Replica, Start, forethaw
from tests.restore_driver.real.test_faults import flip, pages


def ask(*words: str | Path, ok: int = 0) -> dict[str, Any]:
    argv = [sys.executable, "-m", "restore_driver", *map(str, words), "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ok, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def whole(start: Start, state: Path, tmp_path: Path) -> tuple[Path, Replica]:
    """An artifact with its zero pages, of a server that counted to two."""
    server = start()
    for _ in range(2):
        server.ask("POST", "/increment")
    forethaw("checkpoint", str(server.pid), tmp_path / "a" / "whole", "--end", "--no-compact", state=state)
    return tmp_path / "a" / "whole", server


def test_compact_replaces_the_artifact_which_restores_as_before(
    whole: tuple[Path, Replica], place: Place, state: Path
) -> None:
    artifact, server = whole
    before = ask("inspect", artifact)
    done = ask("compact", artifact)
    after = ask("inspect", artifact)

    assert done["replaced"] and done["saved_bytes"] > 0
    assert after["compacted_bytes"] - before["compacted_bytes"] == done["saved_bytes"]
    assert (after["digest"], after["sealed"]) == (done["digest"], "yes")
    assert before["digest"] != after["digest"]
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["whole", "whole.seal"]

    answer = forethaw("restore", artifact, "--into", str(place().pid), state=state)
    server = Replica(answer["answer"]["host_pid"], server.port, server.directory)
    assert server.ask("POST", "/increment")["count"] == 3


def test_compacting_twice_touches_nothing(whole: tuple[Path, Replica]) -> None:
    artifact, _ = whole
    first = ask("compact", artifact)
    seal = (artifact.parent / "whole.seal").read_bytes()
    second = ask("compact", artifact)

    assert (second["replaced"], second["saved_bytes"], second["digest"]) == (False, 0, first["digest"])
    assert (artifact.parent / "whole.seal").read_bytes() == seal


def test_a_damaged_artifact_is_not_compacted_and_not_sealed(whole: tuple[Path, Replica]) -> None:
    artifact, _ = whole
    flip(pages(artifact), 4242)

    for command in ("compact", "verify"):
        refused = ask(command, artifact, ok=2)
        assert (refused["reason"], "pages-" in refused["detail"]) == ("DigestMismatch", True)
    assert ask("inspect", artifact)["sealed"].startswith("no: ")
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["whole", "whole.seal"]


def test_verify_renews_a_seal_whose_times_changed(whole: tuple[Path, Replica]) -> None:
    """A copy has other inodes: its seal is void until its digests were looked at."""
    artifact, _ = whole
    record = artifact.parent / "whole.seal"
    record.unlink()
    assert ask("inspect", artifact)["sealed"].startswith("no: ")
    verified = ask("verify", artifact)

    assert verified["digest"] == ask("inspect", artifact)["digest"]
    assert check_seal(artifact).name == "whole"


def test_inspect_lists_incompatibilities(whole: tuple[Path, Replica]) -> None:
    artifact, _ = whole
    manifest = artifact / "manifest.json"
    content = json.loads(manifest.read_text())
    content["fingerprint"]["kernel"] = "99.0.1"
    artifact.chmod(0o700)
    manifest.chmod(0o600)
    manifest.write_text(json.dumps(content))
    said = ask("inspect", artifact, ok=1)

    assert not said["fits_here"]
    assert ["99.0.1" in sentence for sentence in said["misfits"]] == [True]
