"""Push and stage by the command line, on both stores: files are equal, and nothing is transferred twice."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from restore_driver.artifact import read_lock
from restore_driver.artifact.manifest import load_manifest, manifest_bytes, manifest_digest
from restore_driver.artifact.seal import check_seal, seal_path
from restore_driver.errors import DriverError
from restore_driver.host.hugepages import is_huge_tmpfs
from restore_driver.host.mounts import mount, unmount
from restore_driver.store.catalog import short_digest
from restore_driver.store.free_space import huge_bytes, make_memory
from tests.restore_driver.store.conftest import FILES, Store, forethaw, is_sealed, make_artifact, same


def test_a_pushed_snapshot_is_listed_and_staged_with_the_same_files(
    artifact: Path, store: Store, tmp_path: Path
) -> None:
    """push -> listed -> staged elsewhere, sealed, the same files -> nothing to do a second time."""
    pushed = forethaw("push", artifact, store.url)
    (listed,) = forethaw("list", store.url)["snapshots"]
    target = tmp_path / "node" / "counter"
    staged = forethaw("stage", f"{store.url}/counter", target)

    total = sum(map(len, FILES.values()))
    assert (pushed["outcome"], pushed["bytes"], pushed["sent_bytes"]) == ("pushed", total, pushed["stored_bytes"])
    assert (listed["name"], listed["bytes"], listed["created_unix_s"]) == ("counter", total, 1.7e9)
    assert pushed["snapshot"] == f"{store.url}/counter/{listed['digest']}"
    assert (staged["outcome"], staged["fetched_bytes"]) == ("staged", pushed["stored_bytes"])
    assert same(artifact, target)
    assert check_seal(target).name == "counter"
    assert sorted(path.name for path in target.parent.iterdir()) == ["counter", "counter.seal"]

    once_more = forethaw("stage", f"{store.url}/counter/{listed['digest']}", target)
    assert (once_more["outcome"], once_more["fetched_bytes"]) == ("there already", 0)
    again = forethaw("push", artifact, store.url)
    assert (again["outcome"], again["sent_bytes"], again["stored_bytes"]) == (
        "there already",
        0,
        pushed["stored_bytes"],
    )


def test_chunks_that_do_not_compress_are_stored_uncompressed(tmp_path: Path, store: Store) -> None:
    noise = os.urandom(9 << 20)
    artifact = make_artifact(tmp_path / "made" / "noise", {"noise": noise, "nothing": bytes(9 << 20)})
    pushed = forethaw("push", artifact, store.url)

    (name,) = [each for each in store.objects() if each.endswith("files/noise")]
    assert (store.directory / name).read_bytes() == noise
    assert len(noise) < pushed["stored_bytes"] < len(noise) + 10_000


def test_without_a_digest_the_most_recently_created_snapshot_is_staged(tmp_path: Path, store: Store) -> None:
    """The newer one is pushed first: the time of creation counts, not that of the push."""
    new = make_artifact(tmp_path / "new" / "counter", {"a": b"new"}, created_unix_s=2e9)
    old = make_artifact(tmp_path / "old" / "counter", {"a": b"old"}, created_unix_s=1e9)
    forethaw("push", new, store.url)
    forethaw("push", old, store.url)
    snapshots = forethaw("list", store.url)["snapshots"]
    forethaw("stage", f"{store.url}/counter", tmp_path / "node" / "newest")
    forethaw("stage", f"{store.url}/counter/{snapshots[1]['digest']}", tmp_path / "node" / "other")

    assert [each["created_unix_s"] for each in snapshots] == [2e9, 1e9]
    assert (tmp_path / "node" / "newest" / "a").read_bytes() == b"new"
    assert (tmp_path / "node" / "other" / "a").read_bytes() == b"old"


def test_an_older_artifact_in_the_same_place_is_replaced_unless_it_is_locked(tmp_path: Path, store: Store) -> None:
    target = make_artifact(tmp_path / "node" / "counter", {"a": b"old", "only/old": b"x"}, created_unix_s=1.0)
    forethaw("push", make_artifact(tmp_path / "new" / "counter", {"a": b"new"}), store.url)
    with read_lock.shared_lock(target):
        refused = forethaw("stage", f"{store.url}/counter", target, ok=1)

        assert refused["reason"] == "Busy"
        assert check_seal(target).created_unix_s == 1.0
    staged = forethaw("stage", f"{store.url}/counter", target)

    assert (staged["fetched_bytes"], staged["resumed_bytes"]) == (0, staged["stored_bytes"])
    assert [entry.path for entry in check_seal(target).files] == ["a"]
    assert sorted(path.name for path in target.parent.iterdir()) == ["counter", "counter.seal"]


def test_an_artifact_without_a_valid_seal_is_sealed_or_staged_again(
    artifact: Path, store: Store, tmp_path: Path
) -> None:
    """No seal and right digests: sealed again. Changed content: staged again."""
    target = tmp_path / "node" / "counter"
    forethaw("push", artifact, store.url)
    forethaw("stage", f"{store.url}/counter", target)
    seal_path(target).unlink()

    assert forethaw("stage", f"{store.url}/counter", target)["outcome"] == "sealed again"
    assert is_sealed(target)
    page = target / "images" / "pages-1.img"
    page.chmod(0o600)
    page.write_bytes(b"other" * 1000)
    assert forethaw("stage", f"{store.url}/counter", target)["outcome"] == "staged"
    assert is_sealed(target) and same(artifact, target)


def test_a_directory_that_is_not_an_artifact_is_not_replaced(artifact: Path, store: Store, tmp_path: Path) -> None:
    forethaw("push", artifact, store.url)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    refused = forethaw("stage", f"{store.url}/counter", tmp_path / "home", ok=2)

    assert refused["reason"] == "RequestInvalid"
    assert (tmp_path / "home" / "thesis.tex").read_text() == "precious"


def test_a_missing_snapshot_is_named(store: Store, tmp_path: Path) -> None:
    for snapshot in ("missing", "missing/0123456789abcdef"):
        refused = forethaw("stage", f"{store.url}/{snapshot}", tmp_path / "node" / "x", ok=2)

        assert (refused["reason"], "missing" in refused["detail"]) == ("RequestInvalid", True)
    assert list((tmp_path / "node").iterdir()) == []


def test_an_artifact_whose_content_changed_is_not_pushed(artifact: Path, store: Store) -> None:
    page = artifact / "images" / "pages-1.img"
    page.chmod(0o600)
    with page.open("r+b") as file:
        file.seek(5 << 20)
        file.write(b"x")
    refused = forethaw("push", artifact, store.url, ok=1)

    assert (refused["outcome"], refused["reason"]) == ("failed", "DigestMismatch")
    assert "images/pages-1.img" in refused["detail"]
    assert forethaw("list", store.url)["snapshots"] == []


def test_push_again_repairs_a_corrupt_object(artifact: Path, store: Store, tmp_path: Path) -> None:
    forethaw("push", artifact, store.url)
    (tar,) = [name for name in store.objects() if name.endswith("files.tar")]
    store.corrupt(tar)
    forethaw("stage", f"{store.url}/counter", tmp_path / "node" / "counter", ok=1)
    forethaw("push", artifact, store.url, "--again")
    staged = forethaw("stage", f"{store.url}/counter", tmp_path / "node" / "counter")

    assert staged["outcome"] == "staged" and staged["resumed_bytes"] > 0
    assert same(artifact, tmp_path / "node" / "counter")


def test_a_listing_reports_unreadable_manifests_and_ignores_other_files(artifact: Path, store: Store) -> None:
    forethaw("push", artifact, store.url)
    odd = store.directory / "odd" / "0123456789abcdef"
    odd.mkdir(parents=True)
    (odd / "manifest.json").write_text("{")
    (store.directory / "README").write_text("hello")
    listing = forethaw("list", store.url)

    assert [each["name"] for each in listing["snapshots"]] == ["counter"]
    (problem,) = listing["problems"]
    assert "odd/0123456789abcdef" in problem


def plant(store: Store, manifest: dict[str, Any], index: dict[str, Any] | None = None) -> str:
    """Write a snapshot as an attacker with access to the store could; its digest matches."""
    content = json.dumps(manifest).encode()
    place = store.directory / "evil" / short_digest(content)
    (place / "files").mkdir(parents=True)
    (place / "chunks.json").write_text(json.dumps(index or {"chunk_bytes": 4096, "files": []}))
    (place / "manifest.json").write_bytes(content)
    return f"{store.url}/evil/{place.name}"


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "images/../../evil", "./a", "manifest.json"])
def test_names_that_lead_out_are_refused_before_anything_is_written(
    path: str, artifact: Path, store: Store, tmp_path: Path
) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest |= {"name": "evil", "files": [{"path": path, "size_bytes": 0, "digest": "0" * 64}]}
    snapshot = plant(
        store, manifest, {"chunk_bytes": 4096, "files": [{"path": path, "stored_bytes": [], "digests": []}]}
    )
    refused = forethaw("stage", snapshot, tmp_path / "node" / "x", ok=2)

    assert refused["reason"] in ("ManifestInvalid", "NotTrusted")
    assert re.search(r"not a path within|not a plain path", refused["detail"])
    assert list((tmp_path / "node").iterdir()) == []


def test_a_snapshot_with_the_index_of_an_older_release_is_refused_by_its_name_and_may_be_pushed_again(
    artifact: Path, store: Store, tmp_path: Path
) -> None:
    snapshot = forethaw("push", artifact, store.url)["snapshot"]
    index = store.directory / snapshot.removeprefix(store.url).lstrip("/") / "chunks.json"
    index.rename(index.with_name("travel.json"))
    refused = forethaw("stage", snapshot, tmp_path / "node" / "counter", ok=2)

    assert (refused["reason"], "travel.json is the index of an older release" in refused["detail"]) == (
        "ManifestInvalid",
        True,
    )
    assert "push --again" in refused["hint"]
    forethaw("push", artifact, store.url, "--again")
    assert forethaw("stage", snapshot, tmp_path / "node" / "counter")["outcome"] == "staged"


def test_a_manifest_of_another_name_is_refused(artifact: Path, store: Store, tmp_path: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    snapshot = plant(store, manifest)  # its name is `counter`, its place `evil`
    refused = forethaw("stage", snapshot, tmp_path / "node" / "x", ok=2)

    assert (refused["reason"], "evil" in refused["detail"]) == ("DigestMismatch", True)


def test_stage_in_memory_uses_a_tmpfs_of_huge_pages(artifact: Path, store: Store, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    forethaw("push", artifact, store.url)
    try:
        staged = forethaw("stage", f"{store.url}/counter", memory / "counter", "--in-memory")
        mounted = is_huge_tmpfs(memory)
        second = forethaw("stage", f"{store.url}/counter", memory / "other", "--in-memory", ok=2)

        assert (staged["outcome"], mounted) == ("staged", True)
        assert is_sealed(memory / "counter") and same(artifact, memory / "counter")
        assert second["reason"] == "DiskFull"
    finally:
        unmount(memory)


def test_too_little_memory_and_a_used_mount_point_are_refused(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for parent, available, reason in (
        (tmp_path / "new", 1 << 20, "TooLittleMemory"),
        (tmp_path / "used", 1 << 40, "RequestInvalid"),
    ):
        with pytest.raises(DriverError) as caught:
            make_memory(parent, [1 << 20, 5, 3 << 20], available)

        assert caught.value.reason == reason
        assert not is_huge_tmpfs(parent)
    assert huge_bytes([1 << 20, 0, 3 << 20]) == (1 + 1 + 2 + 16) * (2 << 20)


def test_too_little_free_disk_space_is_refused_with_both_numbers(artifact: Path, store: Store, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount("tmpfs", small, "tmpfs", options="size=3m,mode=0700")
    try:
        forethaw("push", artifact, store.url)
        refused = forethaw("stage", f"{store.url}/counter", small / "counter", ok=2)

        assert (refused["reason"], f"{sum(map(len, FILES.values())):,}" in refused["detail"]) == ("DiskFull", True)
        assert not (small / "counter").exists()
    finally:
        unmount(small)


def test_a_place_is_named_by_the_digest_of_the_manifests_content(artifact: Path) -> None:
    assert short_digest((artifact / "manifest.json").read_bytes()) == manifest_digest(load_manifest(artifact))[:16]
    assert manifest_bytes(load_manifest(artifact)) == (artifact / "manifest.json").read_bytes()
