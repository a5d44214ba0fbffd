"""With real CRIU: checkpoint, push to a real object store, stage elsewhere, restore; the state is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from restore_driver.driver import Driver
from restore_driver.host import proc
from restore_driver.toolset import open_toolset
from restore_driver.wire.requests import RestoreRequest
from tests.restore_driver.real import conftest as real
from tests.restore_driver.real.conftest import Place, Replica, Start, criu, place, start, state
from tests.restore_driver.store.conftest import S3Server, forethaw, make_artifact, s3_store

__all__ = ["criu", "place", "start", "state"]  # fixtures


def test_a_server_is_restored_from_an_object_store(
    start: Start,
    place: Place,
    state: Path,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Count to three, checkpoint and end, push, lose the node's copy, stage, restore: the next count is four."""
    store, server = s3_store(s3, tmp_path.name, monkeypatch), start()
    for _ in range(3):
        server.ask("POST", "/increment")
    before = server.ask("GET", "/state")
    real.forethaw("checkpoint", str(server.pid), tmp_path / "one" / "counter", "--end", state=state)
    forethaw("push", tmp_path / "one" / "counter", store.url)
    (tmp_path / "one").rename(tmp_path / "lost")
    forethaw("stage", f"{store.url}/counter", tmp_path / "two" / "counter")
    answer = real.forethaw("restore", tmp_path / "two" / "counter", "--into", str(place().pid), state=state)
    server = Replica(answer["answer"]["host_pid"], server.port, server.directory)

    assert answer["outcome"] == "proven"
    assert server.ask("GET", "/state") == before
    assert server.ask("POST", "/increment")["count"] == 4


def test_a_prune_during_a_restore_keeps_its_artifact(
    start: Start,
    place: Place,
    state: Path,
    tmp_path: Path,
) -> None:
    """A prune whose policy removes the artifact runs when CRIU is about to read it."""
    artifact = tmp_path / "node" / "counter"
    real.forethaw("checkpoint", str(start().pid), artifact, "--end", state=state)
    make_artifact(tmp_path / "newer" / "counter", created_unix_s=4e9).rename(tmp_path / "node" / "newer")
    pruned: list[dict[str, Any]] = []

    def prune(event: str, phase: str) -> None:
        if (event, phase) == ("begin", "criu-restore"):
            pruned.append(forethaw("prune", tmp_path / "node", "--keep-last", "1"))

    request = RestoreRequest(artifact=artifact, placeholder_pid=place().pid)
    result = Driver(open_toolset(state)).carry_out(request, prune)

    assert result.outcome == "proven", result
    assert (pruned[0]["removed"], proc.is_alive(result.answer["host_pid"])) == ([], True)
    assert [each["place"] for each in pruned[0]["kept"] if each["locked"]] == [str(artifact)]
    after = forethaw("prune", tmp_path / "node", "--keep-last", "1")
    assert [each["place"] for each in after["removed"]] == [str(artifact)]
