"""There and back: what is pushed is what is staged, and nothing moves twice; on both stores, by the command line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from restore_driver.artifact import read_lock as hold
from restore_driver.artifact.manifest import to_bytes
from restore_driver.artifact.seal import check_seal, seal_path
from restore_driver.host.hugepages import is_huge_tmpfs
from restore_driver.host.mounts import mount, unmount
from restore_driver.store import free_space as room
from restore_driver.store.catalog import digest_of
from tests.restore_driver.store.conftest import FILES, Store, forethaw, make_artifact, same


def test_there_and_back(artifact: Path, store: Store, tmp_path: Path) -> None:
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


def test_what_does_not_compress_stays_as_it_is(tmp_path: Path, store: Store) -> None:
    noise = os.urandom(9 << 20)
    artifact = make_artifact(tmp_path / "made" / "noise", {"noise": noise, "nothing": bytes(9 << 20)})
    pushed = forethaw("push", artifact, store.url)

    (name,) = [each for each in store.objects() if each.endswith("files/noise")]
    assert (store.directory / name).read_bytes() == noise
    assert len(noise) < pushed["stored_bytes"] < len(noise) + 10_000


def test_without_a_digest_the_newest_by_its_creation_is_staged(tmp_path: Path, store: Store) -> None:
    """The newer one is pushed first: what counts is when it was made."""
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


def test_an_older_artifact_in_the_same_place_is_replaced_unless_it_is_held(tmp_path: Path, store: Store) -> None:
    target = make_artifact(tmp_path / "node" / "counter", {"a": b"old", "only/old": b"x"}, created_unix_s=1.0)
    forethaw("push", make_artifact(tmp_path / "new" / "counter", {"a": b"new"}), store.url)
    with hold.reading(target):
        refused = forethaw("stage", f"{store.url}/counter", target, ok=1)

        assert refused["reason"] == "Busy"
        assert check_seal(target).created_unix_s == 1.0
    staged = forethaw("stage", f"{store.url}/counter", target)

    assert (staged["fetched_bytes"], staged["resumed_bytes"]) == (0, staged["stored_bytes"])
    assert [entry.path for entry in check_seal(target).files] == ["a"]
    assert sorted(path.name for path in target.parent.iterdir()) == ["counter", "counter.seal"]


def test_an_artifact_without_a_good_seal_is_sealed_again_or_staged_anew(
    artifact: Path, store: Store, tmp_path: Path
) -> None:
    """No seal and right digests: sealed again. A seal that breaks for a reason: staged anew."""
    target = tmp_path / "node" / "counter"
    forethaw("push", artifact, store.url)
    forethaw("stage", f"{store.url}/counter", target)
    seal_path(target).unlink()

    assert forethaw("stage", f"{store.url}/counter", target)["outcome"] == "sealed again"
    assert check_seal(target)
    page = target / "images" / "pages-1.img"
    page.chmod(0o600)
    page.write_bytes(b"other" * 1000)
    assert forethaw("stage", f"{store.url}/counter", target)["outcome"] == "staged"
    assert check_seal(target) and same(artifact, target)


def test_what_is_no_artifact_is_never_replaced(artifact: Path, store: Store, tmp_path: Path) -> None:
    forethaw("push", artifact, store.url)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    refused = forethaw("stage", f"{store.url}/counter", tmp_path / "home", ok=2)

    assert refused["reason"] == "RequestInvalid"
    assert (tmp_path / "home" / "thesis.tex").read_text() == "precious"


def test_a_snapshot_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    for snapshot in ("nobody", "nobody/0123456789abcdef"):
        refused = forethaw("stage", f"{store.url}/{snapshot}", tmp_path / "node" / "x", ok=2)

        assert (refused["reason"], "nobody" in refused["detail"]) == ("RequestInvalid", True)
    assert list((tmp_path / "node").iterdir()) == []


def test_an_artifact_that_changed_since_is_not_pushed(artifact: Path, store: Store) -> None:
    page = artifact / "images" / "pages-1.img"
    page.chmod(0o600)
    with page.open("r+b") as file:
        file.seek(5 << 20)
        file.write(b"x")
    refused = forethaw("push", artifact, store.url, ok=1)

    assert (refused["outcome"], refused["reason"]) == ("failed", "DigestMismatch")
    assert "images/pages-1.img" in refused["detail"]
    assert forethaw("list", store.url)["snapshots"] == []


def test_push_again_mends_a_corrupt_object(artifact: Path, store: Store, tmp_path: Path) -> None:
    forethaw("push", artifact, store.url)
    (tar,) = [name for name in store.objects() if name.endswith("files.tar")]
    store.corrupt(tar)
    forethaw("stage", f"{store.url}/counter", tmp_path / "node" / "counter", ok=1)
    forethaw("push", artifact, store.url, "--again")
    staged = forethaw("stage", f"{store.url}/counter", tmp_path / "node" / "counter")

    assert staged["outcome"] == "staged" and staged["resumed_bytes"] > 0
    assert same(artifact, tmp_path / "node" / "counter")


def test_a_store_with_strange_things_in_it_is_listed_without_them(artifact: Path, store: Store) -> None:
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
    """A snapshot as somebody with access to the store could make it; its digest fits."""
    content = json.dumps(manifest).encode()
    place = store.directory / "evil" / digest_of(content)
    (place / "files").mkdir(parents=True)
    (place / "travel.json").write_text(json.dumps(index or {"piece_bytes": 4096, "files": []}))
    (place / "manifest.json").write_bytes(content)
    return f"{store.url}/evil/{place.name}"


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "images/../../evil", "./a", "manifest.json"])
def test_names_that_lead_out_are_refused_before_anything_is_written(
    path: str, artifact: Path, store: Store, tmp_path: Path
) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest |= {"name": "evil", "files": [{"path": path, "size_bytes": 0, "digest": "0" * 64}]}
    snapshot = plant(
        store, manifest, {"piece_bytes": 4096, "files": [{"path": path, "stored_bytes": [], "digests": []}]}
    )
    refused = forethaw("stage", snapshot, tmp_path / "node" / "x", ok=2)

    assert refused["reason"] in ("ManifestInvalid", "NotTrusted")
    assert re.search(r"not a path within|no plain path", refused["detail"])
    assert list((tmp_path / "node").iterdir()) == []


def test_a_manifest_in_anothers_place_is_refused(artifact: Path, store: Store, tmp_path: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    snapshot = plant(store, manifest)  # it says `counter`, and lies below `evil`
    refused = forethaw("stage", snapshot, tmp_path / "node" / "x", ok=2)

    assert (refused["reason"], "evil" in refused["detail"]) == ("DigestMismatch", True)


def test_in_memory_it_lies_on_huge_pages(artifact: Path, store: Store, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    forethaw("push", artifact, store.url)
    try:
        staged = forethaw("stage", f"{store.url}/counter", memory / "counter", "--in-memory")
        mounted = is_huge_tmpfs(memory)
        second = forethaw("stage", f"{store.url}/counter", memory / "other", "--in-memory", ok=2)

        assert (staged["outcome"], mounted) == ("staged", True)
        assert check_seal(memory / "counter") and same(artifact, memory / "counter")
        assert second["reason"] == "DiskFull"
    finally:
        unmount(memory)


def test_too_little_memory_and_what_a_mount_would_hide_are_refused(tmp_path: Path) -> None:
    from restore_driver.errors import DriverError

    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for parent, available, reason in (
        (tmp_path / "new", 1 << 20, "TooLittleMemory"),
        (tmp_path / "used", 1 << 40, "RequestInvalid"),
    ):
        with pytest.raises(DriverError) as caught:
            room.make_memory(parent, [1 << 20, 5, 3 << 20], available)

        assert caught.value.reason == reason
        assert not is_huge_tmpfs(parent)
    assert room.huge_bytes([1 << 20, 0, 3 << 20]) == (1 + 1 + 2 + 16) * (2 << 20)


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(artifact: Path, store: Store, tmp_path: Path) -> None:
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


def test_the_place_is_named_for_the_manifests_bytes(artifact: Path) -> None:
    from restore_driver.artifact.manifest import digest, load

    assert digest_of((artifact / "manifest.json").read_bytes()) == digest(load(artifact))[:16]
    assert to_bytes(load(artifact)) == (artifact / "manifest.json").read_bytes()
