"""Prune stores and nodes: removals are complete, locked snapshots stay, a crash leaves snapshots whole or unlisted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from restore_driver.artifact import read_lock
from restore_driver.artifact.publish import PREFIX, Draft
from restore_driver.artifact.seal import seal_path
from restore_driver.errors import DriverError, Reason
from restore_driver.store import objects, prune, removal
from tests.restore_driver.store.conftest import Store, forethaw, is_sealed, make_artifact

DAY_S = 86400.0


def push_three(store: Store, tmp_path: Path) -> list[str]:
    """Push three snapshots of one name, three, two and one days old, and return their digests."""
    for days in (3, 2, 1):
        made = make_artifact(
            tmp_path / f"made-{days}" / "counter", {"a": b"x" * days}, created_unix_s=time.time() - days * DAY_S
        )
        forethaw("push", made, store.url)
    return [each["digest"] for each in reversed(forethaw("list", store.url)["snapshots"])]


def listed(store: Store) -> list[str]:
    return [each["digest"] for each in forethaw("list", store.url)["snapshots"]]


def gone(done: dict[str, list[dict[str, str]]]) -> list[str]:
    return [each["place"] for each in done["removed"]]


def ages(path: Path, days: float) -> None:
    """Set the modification times of everything to that long ago."""
    then = time.time() - days * DAY_S
    for each in (*path.rglob("*"), path):
        os.utime(each, (then, then))


def test_prune_keeps_the_newest_and_removes_all_objects_of_the_others(store: Store, tmp_path: Path) -> None:
    oldest, middle, newest = push_three(store, tmp_path)
    would = forethaw("prune", store.url, "--keep-last", "1", "--dry-run")

    assert gone(would) == [f"counter/{oldest}", f"counter/{middle}"]
    assert len(listed(store)) == 3
    done = forethaw("prune", store.url, "--keep-last", "1")
    assert (gone(done), done["freed_bytes"]) == (gone(would), would["freed_bytes"])
    assert listed(store) == [newest]
    assert {name.split("/")[1] for name in store.objects()} == {newest}


def test_age_and_quota_on_a_store(store: Store, tmp_path: Path) -> None:
    oldest, middle, newest = push_three(store, tmp_path)

    assert gone(forethaw("prune", store.url, "--max-age", "60h")) == [f"counter/{oldest}"]
    assert gone(forethaw("prune", store.url, "--quota", "10G")) == []
    done = forethaw("prune", store.url, "--quota", "1")
    assert gone(done) == [f"counter/{middle}"]
    assert done["over_quota_bytes"] > 0
    assert listed(store) == [newest]


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_a_snapshot_that_a_stage_reads_from_a_directory_is_kept(store: Store, tmp_path: Path) -> None:
    oldest, *_ = push_three(store, tmp_path)
    with store.backend().reading(f"counter/{oldest}"):
        done = forethaw("prune", store.url, "--max-age", "1h")

    assert len(done["removed"]) == 1
    (locked,) = [each for each in done["kept"] if each["locked"]]
    assert (locked["digest"], locked["reason"]) == (oldest, "locked by a reader, such as a restore")
    assert gone(forethaw("prune", store.url, "--max-age", "1h")) == [f"counter/{oldest}"]


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_killed_prune_of_an_object_store_leaves_the_snapshot_unlisted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is removed first; the next prune sweeps the rest, once it is older than the grace period."""
    oldest, *_ = push_three(store, tmp_path)

    def die(*_: object) -> None:
        raise DriverError(Reason.STORE_UNREACHABLE, "killed")

    with monkeypatch.context() as patch:
        patch.setattr(objects.ObjectBackend, "walk", die)
        with pytest.raises(DriverError):
            store.backend().retire(f"counter/{oldest}")

    assert len(listed(store)) == 2
    assert any(oldest in name for name in store.objects())
    assert forethaw("prune", store.url)["swept"] == []
    ages(store.directory / "counter" / oldest, 2)
    assert forethaw("prune", store.url)["swept"] == [f"counter/{oldest}"]
    assert not any(oldest in name for name in store.objects())


def test_the_newest_of_each_name_is_kept_by_every_policy(tmp_path: Path) -> None:
    node = tmp_path / "node"
    for name in ("counter", "llama"):
        make_artifact(node / name, {"a": b"x"}, created_unix_s=1.0)
    done = forethaw("prune", node, "--keep-last", "1", "--max-age", "1h", "--quota", "1")

    assert (gone(done), done["over_quota_bytes"]) == ([], 1)
    assert is_sealed(node / "counter") and is_sealed(node / "llama")


def staged_three(node: Path, tmp_path: Path) -> list[Path]:
    """Stage three snapshots of one name on a node, and return them, the oldest first."""
    store = tmp_path / "source"
    store.mkdir()
    digests = push_three(Store(str(store), store), tmp_path)
    for number, digest in enumerate(digests):
        forethaw("stage", f"{store}/counter/{digest}", node / f"staged-{number}")
    return [node / f"staged-{number}" for number in range(3)]


def test_on_a_node_seals_are_removed_with_their_artifacts(tmp_path: Path) -> None:
    node = tmp_path / "node"
    oldest, middle, newest = staged_three(node, tmp_path)
    done = forethaw("prune", node, "--keep-last", "1")

    assert gone(done) == [str(oldest), str(middle)]
    assert sorted(path.name for path in node.iterdir()) == [newest.name, seal_path(newest).name]
    assert is_sealed(newest)


def test_an_artifact_that_a_restore_has_locked_is_kept(tmp_path: Path) -> None:
    node = tmp_path / "node"
    oldest, middle, _ = staged_three(node, tmp_path)
    with read_lock.shared_lock(oldest), read_lock.shared_lock(oldest):
        done = forethaw("prune", node, "--quota", "1")

    assert gone(done) == [str(middle)]
    assert [each["place"] for each in done["kept"] if each["locked"]] == [str(oldest)]
    assert is_sealed(oldest)


def test_an_artifact_locked_between_plan_and_removal_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unlocked when the plan is made, and locked when it should be removed."""
    node = tmp_path / "node"
    oldest, *_ = staged_three(node, tmp_path)
    monkeypatch.setattr(prune, "is_locked", lambda _: False)
    with read_lock.shared_lock(oldest):
        done = forethaw("prune", node, "--keep-last", "2")

    assert gone(done) == []
    assert "locked by a reader, such as a restore" in [each["reason"] for each in done["kept"]]
    assert is_sealed(oldest)


@pytest.mark.parametrize("step", ["rename", "remove"])
def test_a_killed_prune_of_a_node_leaves_artifacts_whole_or_unlisted(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "node"
    oldest, *_ = staged_three(node, tmp_path)

    class Killed(BaseException):
        pass

    def die(at: str) -> None:
        if at == step:
            raise Killed

    with pytest.raises(Killed):
        removal.put_away(oldest, die)

    assert oldest.exists() == (step == "rename")
    if oldest.exists():
        assert is_sealed(oldest)
    ages(node, 2)
    done = forethaw("prune", node)
    assert len(done["swept"]) == (0 if step == "rename" else 2)  # the directory, and its seal
    assert list(node.glob(f"{removal.GONE}*")) == []
    assert seal_path(oldest).exists() == oldest.exists()


def test_a_sweep_removes_old_unlocked_unfinished_work(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.mkdir(mode=0o700)
    for name in (".staging-old.0", ".staging-busy.0", ".staging-new.0", f"{PREFIX}dead.1"):
        (node / name / "artifact").mkdir(parents=True)
    (node / "orphan.seal").touch()
    ages(node, 2)
    (node / ".staging-new.0" / "artifact" / "file").touch()
    (node / "fresh.seal").touch()
    draft = Draft.open(node / "in-the-making")  # opening sweeps drafts of ended processes as well
    with read_lock.exclusive_lock(node / ".staging-busy.0"):
        would = forethaw("prune", node, "--dry-run")
        done = forethaw("prune", node)

    assert would["swept"] == done["swept"] == [str(node / ".staging-old.0"), str(node / "orphan.seal")]
    left = {path.name for path in node.iterdir()}
    assert left == {".staging-busy.0", ".staging-new.0", "fresh.seal", draft.path.name}
    draft.close()
    assert forethaw("prune", node, "--grace", "1s")["swept"][0] == str(node / ".staging-busy.0")


def test_a_directory_may_contain_a_store_and_artifacts(tmp_path: Path) -> None:
    """Each is found at its own depth, and the policy covers both."""
    (tmp_path / "both").mkdir(mode=0o700)
    store = Store(str(tmp_path / "both"), tmp_path / "both")
    digests = push_three(store, tmp_path)
    forethaw("stage", f"{store.url}/counter/{digests[0]}", tmp_path / "both" / "staged")
    done = forethaw("prune", store.url, "--keep-last", "1")

    assert sorted(gone(done)) == sorted(
        [f"counter/{digests[0]}", f"counter/{digests[1]}", str(tmp_path / "both/staged")]
    )
    assert listed(store) == [digests[2]]


@pytest.mark.parametrize("words", [["--quota", "much"], ["--max-age", "0"], ["--keep-last", "0"]])
def test_an_invalid_policy_is_refused(words: list[str], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from restore_driver.cli import application

    assert CliRunner().invoke(application(), ["prune", str(tmp_path), *words]).exit_code == 2
