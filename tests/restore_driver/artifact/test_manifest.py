"""The manifest is closed, versioned and canonical; anything else is refused with the field."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.artifact.manifest import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    load_manifest,
    manifest_bytes,
    manifest_digest,
    parse_manifest,
)
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.artifact.conftest import about

GOOD = Manifest(name="snapshot", files=(FileEntry(path="images/a.img", size_bytes=3, digest="0" * 64),), **about())
CONTENT: dict[str, Any] = json.loads(manifest_bytes(GOOD))


def member(content: Any, where: tuple[str | int, ...]) -> Any:
    for step in where:
        content = content[step]
    return content


def changed(where: tuple[str | int, ...], value: Any) -> bytes:
    content = json.loads(json.dumps(CONTENT))
    member(content, where[:-1])[where[-1]] = value
    return json.dumps(content).encode()


def refusal(content: bytes) -> DriverError:
    with pytest.raises(DriverError) as caught:
        parse_manifest(content, "a.json")
    return caught.value


def shuffled(value: Any, seed: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        seed.shuffle(names)
        return {name: shuffled(value[name], seed) for name in names}
    return [shuffled(each, seed) for each in value] if isinstance(value, list) else value


@given(
    names=st.lists(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.img", fullmatch=True), unique=True, max_size=5),
    size=st.integers(0, 1 << 50),
    pids=st.lists(st.integers(1, 1 << 22), min_size=1, max_size=4),
    seed=st.randoms(use_true_random=False),
)
def test_equal_manifests_have_equal_bytes_for_any_order_of_fields(
    names: list[str], size: int, pids: list[int], seed: random.Random
) -> None:
    files = tuple(FileEntry(path=name, size_bytes=size, digest=f"{at:064x}") for at, name in enumerate(names))
    process = {"root_pid": pids[0], "pids": pids, "user_id": 0}
    manifest = Manifest(name="snapshot", files=files, **about(process=process))
    other = parse_manifest(json.dumps(shuffled(json.loads(manifest_bytes(manifest)), seed)).encode(), "a.json")

    assert other == manifest
    assert manifest_bytes(other) == manifest_bytes(manifest)
    assert manifest_digest(other) == manifest_digest(manifest)


def test_the_digest_changes_with_every_field() -> None:
    """The digest identifies the snapshot."""
    others = [
        changed(("created_unix_s",), 1.0),
        changed(("process", "root_pid"), 12),
        changed(("files", 0, "digest"), "1" * 64),
        changed(("fingerprint", "glibc"), "2.37"),
        changed(("cuda", "pids"), []),
    ]
    digests = {manifest_digest(parse_manifest(content, "a.json")) for content in others}

    assert len(digests | {manifest_digest(GOOD)}) == len(others) + 1


@pytest.mark.parametrize(
    "where",
    [(), ("process",), ("cuda",), ("fingerprint",), ("fingerprint", "gpus", 0), ("replica",), ("proof",), ("files", 0)],
)
def test_an_unknown_field_is_refused_at_every_depth(where: tuple[str | int, ...]) -> None:
    error = refusal(changed((*where, "surprise"), 1))

    assert error.reason is Reason.MANIFEST_INVALID
    assert ".".join(map(str, (*where, "surprise"))) in error.detail and error.hint


@pytest.mark.parametrize("name", sorted(set(CONTENT) - {"schema_version", "compacted_bytes"}))
def test_a_missing_field_is_named(name: str) -> None:
    content = {field: value for field, value in CONTENT.items() if field != name}
    error = refusal(json.dumps(content).encode())

    assert (error.reason, error.detail) == (Reason.MANIFEST_INVALID, f"a.json: {name}: Field required")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("schema_version",), 3),
        (("schema_version",), 0),
        (("files", 0, "size_bytes"), -1),
        (("files", 0, "digest"), "0" * 63),
        (("files", 0, "digest"), "G" * 64),
        (("process", "root_pid"), "nine"),
        (("process", "pids"), None),
        (("fingerprint", "gpus", 0, "memory_bytes"), "lots"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(where: tuple[str | int, ...], value: Any) -> None:
    error = refusal(changed(where, value))

    assert error.reason is Reason.MANIFEST_INVALID
    assert error.detail.startswith("a.json: " + ".".join(map(str, where)))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/shadow", "", "a\0b", "images/.."])
def test_a_name_that_leaves_the_artifact_is_refused(name: str) -> None:
    error = refusal(changed(("files", 0, "path"), name))

    assert (error.reason, "files.0.path" in error.detail) == (Reason.MANIFEST_INVALID, True)


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_are_refused_with_manifest_invalid(content: bytes) -> None:
    assert refusal(content).reason is Reason.MANIFEST_INVALID


@given(end=st.integers(0, len(manifest_bytes(GOOD)) - 3))
def test_a_truncated_manifest_is_refused(end: int) -> None:
    assert refusal(manifest_bytes(GOOD)[:end]).reason is Reason.MANIFEST_INVALID


def test_a_deeply_nested_manifest_is_refused() -> None:
    assert refusal(b'{"name": ' + b"[" * 100_000).reason is Reason.MANIFEST_INVALID


def test_a_manifest_that_is_too_large_is_not_parsed(artifact: Path) -> None:
    """A valid one with too many trailing spaces; and a sparse one of 1 TB is not read into memory."""
    content = manifest_bytes(GOOD)
    error = refusal(content.ljust(LARGEST_MANIFEST_BYTES + 1))
    (artifact / MANIFEST_NAME).chmod(0o600)
    os.truncate(artifact / MANIFEST_NAME, 1 << 40)
    with pytest.raises(DriverError) as caught:
        load_manifest(artifact)

    assert parse_manifest(content.ljust(LARGEST_MANIFEST_BYTES), "a.json") == GOOD
    assert error.detail == f"a.json is larger than {LARGEST_MANIFEST_BYTES:,} bytes"
    assert (caught.value.reason, "is larger than" in caught.value.detail) == (Reason.MANIFEST_INVALID, True)


def test_a_loaded_manifest_lists_name_and_files(artifact: Path) -> None:
    manifest = load_manifest(artifact)

    assert manifest.name == "snapshot"
    assert {entry.path: entry.size_bytes for entry in manifest.files} == {
        "files.tar": 3,
        "images/core-9.img": 4,
        "images/empty.img": 0,
        "images/pages-1.img": 9000,
    }
    assert (artifact / MANIFEST_NAME).read_bytes() == manifest_bytes(manifest)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", Reason.NOT_TRUSTED),
        ("fifo", Reason.NOT_TRUSTED),
        ("directory", Reason.NOT_TRUSTED),
        ("missing", Reason.MANIFEST_INVALID),
        ("artifact is a link", Reason.MANIFEST_INVALID),
        ("artifact is a file", Reason.MANIFEST_INVALID),
    ],
)
def test_what_stands_in_a_manifests_place_is_refused_and_never_waited_on(
    kind: str, reason: Reason, artifact: Path
) -> None:
    place = artifact / MANIFEST_NAME
    place.rename(artifact / "real")
    if kind == "link":
        place.symlink_to("real")
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    elif kind.startswith("artifact"):
        (artifact / "real").rename(place)
        artifact.rename(artifact.with_name("real"))
        if kind.endswith("link"):
            artifact.symlink_to("real")
        else:
            artifact.write_text("")
    with pytest.raises(DriverError) as caught:
        load_manifest(artifact)

    assert (caught.value.reason, str(artifact) in caught.value.detail or MANIFEST_NAME in caught.value.detail) == (
        reason,
        True,
    )
