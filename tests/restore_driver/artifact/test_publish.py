"""Publishing is one rename: killed at any line it leaves the old artifact or the new one, whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from restore_driver.artifact import publish as publishing
from restore_driver.artifact.manifest import load_manifest
from restore_driver.artifact.publish import PREFIX, Draft, sweep
from restore_driver.artifact.seal import check_seal, seal_as_it_is, verify
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.artifact.conftest import FILES, about, publish

ROOT = Path(__file__).parents[3]
STEPS = ["digest", "sync", "manifest", "rename", "remove old"]


@pytest.mark.parametrize("older", [False, True], ids=["first artifact", "replacement"])
def test_a_publisher_killed_at_any_line_leaves_one_whole_artifact(older: bool, tmp_path: Path) -> None:
    """Before the rename it is the old one (or none), after it the new one, in this order."""
    argv = [sys.executable, "-m", "tests.restore_driver.artifact.crashing_publisher", str(tmp_path)]
    done = subprocess.run(
        [*argv, *(["--older"] if older else [])], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    crashes: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    before, beside = ("old", ["snapshot", "snapshot.seal"]) if older else ("nothing", [])
    steps = {crash["at"]: crash["seen"] for crash in crashes if crash["at"] in STEPS}
    lines = [crash for crash in crashes if crash["at"] not in STEPS]

    assert steps == {step: "new" if step == "remove old" else before for step in STEPS}
    assert {crash["seen"] for crash in lines[:-1]} == {before, "new"}
    assert [crash["seen"] for crash in lines] == sorted((crash["seen"] for crash in lines), key=[before, "new"].index)
    assert all(crash["after"] == crash["seen"] for crash in crashes)
    assert all(crash["left"] == (beside or ["snapshot"]) for crash in crashes if crash["seen"] == "new")
    assert all(crash["left"] == beside for crash in crashes if crash["seen"] == before)
    assert (len(lines) > 80, lines[-1]["killed"], lines[-1]["seen"]) == (True, False, "new")


def test_each_step_is_reported_before_it_begins(tmp_path: Path) -> None:
    draft = Draft.open(tmp_path / "snapshot")
    reported: list[str] = []
    try:
        (draft.path / "a.img").write_bytes(b"a")
        manifest = draft.commit(about(), reported.append)
    finally:
        draft.close()

    assert reported == STEPS
    assert load_manifest(tmp_path / "snapshot") == manifest == verify(tmp_path / "snapshot")


def test_an_unpublished_draft_is_removed_when_closed(tmp_path: Path) -> None:
    draft = Draft.open(tmp_path / "snapshot")
    (draft.path / "a.img").write_bytes(b"a")
    draft.close()

    assert list(tmp_path.iterdir()) == []


def test_a_sealed_artifact_is_replaced_and_its_seal_is_not_valid_for_the_new_one(artifact: Path) -> None:
    """The record beside it describes the old one's files."""
    seal_as_it_is(artifact)
    publish(artifact, {"a.img": b"another"})
    with pytest.raises(DriverError) as caught:
        check_seal(artifact)
    seal_as_it_is(artifact)

    assert caught.value.reason is Reason.SEAL_BROKEN
    assert [entry.path for entry in check_seal(artifact).files] == ["a.img"]
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["snapshot", "snapshot.seal"]


def test_two_drafts_of_one_target_in_one_process_are_independent(tmp_path: Path) -> None:
    """Two attempts of an agent: the last one published is whole, and the other draft is removed."""
    one, other = Draft.open(tmp_path / "snapshot"), Draft.open(tmp_path / "snapshot")
    (one.path / "a.img").write_bytes(b"one")
    (other.path / "b.img").write_bytes(b"other")
    other.commit(about())
    one.commit(about())
    other.close()
    one.close()

    assert [entry.path for entry in verify(tmp_path / "snapshot").files] == ["a.img"]
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_concurrent_publications_of_one_target_all_succeed_and_leave_one_whole(tmp_path: Path) -> None:
    """Threads open, sweep and publish concurrently: no draft in use is swept."""
    failures: list[BaseException] = []

    def publish_often(number: int) -> None:
        try:
            for turn in range(6):
                publish(tmp_path / "snapshot", {f"{number}-{turn}.img": os.urandom(100)})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish_often, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(verify(tmp_path / "snapshot").files) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_a_draft_that_is_swept_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another driver's sweep comes between this one's mkdir and its lock."""
    lock = publishing.lock
    swept: list[tuple[Path, ...]] = []

    def sweep_first(fd: int) -> None:
        if not swept:
            swept.append(sweep(tmp_path))
        lock(fd)

    monkeypatch.setattr(publishing, "lock", sweep_first)
    publish(tmp_path / "snapshot")

    assert len(swept[0]) == 1
    assert verify(tmp_path / "snapshot").name == "snapshot"


def test_a_target_that_appears_or_disappears_while_it_is_replaced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no artifact to exchange with, then one appears before the rename: the exchange is tried again."""
    exchange, late = publishing._exchanged, [publish(tmp_path / "late")]

    def appears_late(one: Path, other: Path) -> bool:
        if late:
            late.pop().rename(other)
            return False
        return exchange(one, other)

    monkeypatch.setattr(publishing, "_exchanged", appears_late)
    publish(tmp_path / "snapshot", {"new.img": b"new"})

    assert [entry.path for entry in verify(tmp_path / "snapshot").files] == ["new.img"]
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_a_sweep_removes_drafts_of_ended_processes_only(tmp_path: Path) -> None:
    publish(tmp_path / "snapshot")
    (tmp_path / f"{PREFIX}snapshot.1").mkdir()
    (tmp_path / f"{PREFIX}snapshot.1" / "a.img").write_bytes(b"a")
    (tmp_path / f"{PREFIX}link").symlink_to("snapshot")
    (tmp_path / "not-a-draft").mkdir()
    draft = Draft.open(tmp_path / "other")
    removed = sweep(tmp_path)

    assert removed == ()  # opening had swept already
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot", f"{PREFIX}link", "not-a-draft", draft.path.name}
    assert verify(tmp_path / "snapshot").name == "snapshot"
    draft.close()


@pytest.mark.parametrize("kind", ["file", "directory with data", "link to an artifact", "dangling link"])
def test_files_links_and_other_directories_are_not_replaced(kind: str, tmp_path: Path) -> None:
    """A mistake on the command line, such as naming the parent directory, loses no files."""
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("precious")
    elif kind == "directory with data":
        target.mkdir()
        publish(target / "snapshot")
    else:
        target.symlink_to(publish(tmp_path / "snapshot") if kind == "link to an artifact" else "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DriverError) as caught:
        Draft.open(target)

    assert (caught.value.reason, caught.value.detail) == (
        Reason.REQUEST_INVALID,
        f"{target} exists and is not an artifact",
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_directory_and_a_broken_artifact_are_replaced(artifact: Path) -> None:
    (artifact / "manifest.json").write_text("{")
    (artifact.parent / "empty").mkdir()
    publish(artifact)
    publish(artifact.parent / "empty")

    assert verify(artifact).name == "snapshot"
    assert verify(artifact.parent / "empty").name == "empty"


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(DriverError) as caught:
        Draft.open(tmp_path / "snapshot")

    assert caught.value.reason is Reason.NOT_TRUSTED
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_the_older_artifact_stays(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(publishing, "sync", full)
    with pytest.raises(DriverError) as caught:
        publish(artifact, {"a.img": b"a"})

    assert caught.value.reason is Reason.DISK_FULL
    assert {entry.path for entry in verify(artifact).files} == set(FILES)
    assert [path.name for path in artifact.parent.iterdir()] == ["snapshot"]
