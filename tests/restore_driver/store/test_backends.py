"""The contract of a backend, for a directory and for a real S3-compatible server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.store.backend import Backend, place_in, place_of
from tests.restore_driver.store.conftest import Store

PLACE = "counter/0123456789abcdef"
ODD = ["a b+c%~#é.img", "x?y=&z", "%41", "..x", "deep/er/still", "a:b*"]


def put(backend: Backend, name: str, content: bytes) -> None:
    with backend.write(name, len(content)) as write:
        write(content)


def get(backend: Backend, name: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(backend.read(name, start, end))


def names(backend: Backend, prefix: str = "") -> list[str]:
    return sorted(found.name for found in backend.walk(prefix))


def raised(call: Callable[[], object]) -> Reason:
    with pytest.raises(DriverError) as caught:
        call()
    return caught.value.reason


@pytest.mark.parametrize("size", [0, 1, (17 << 20) + 3], ids=["empty", "small", "multipart"])
def test_an_object_is_read_whole_and_in_ranges(size: int, store: Store) -> None:
    backend, content = store.backend(), bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    put(backend, "a/object", content)

    assert get(backend, "a/object") == content
    assert get(backend, "a/object", size // 2) == content[size // 2 :]
    assert get(backend, "a/object", size // 3, size // 2) == content[size // 3 : size // 2]
    assert [(found.name, found.size_bytes) for found in backend.walk()] == [("a/object", size)]


@pytest.mark.parametrize("name", ODD)
def test_object_names_are_listed_unchanged(name: str, store: Store) -> None:
    backend = store.backend()
    put(backend, f"odd/{name}", b"content")

    assert names(backend) == [f"odd/{name}"]
    assert get(backend, f"odd/{name}") == b"content"


def test_an_interrupted_write_leaves_no_object(store: Store) -> None:
    backend = store.backend()
    with pytest.raises(RuntimeError), backend.write("object", 40 << 20) as write:
        for _ in range(20):
            write(bytes(1 << 20))
        raise RuntimeError

    assert names(backend) == []


def test_a_second_write_replaces_the_object(store: Store) -> None:
    backend = store.backend()
    put(backend, "object", b"old and longer")
    put(backend, "object", b"new")

    assert get(backend, "object") == b"new"


def test_a_walk_matches_whole_parts_of_names(store: Store) -> None:
    backend = store.backend()
    for name in ("a/1", "a/b/2", "ab/3"):
        put(backend, name, b"x")

    assert names(backend, "a") == ["a/1", "a/b/2"]
    assert names(backend, "nothing") == []


def test_reading_a_missing_object_fails_and_removing_it_does_not(store: Store) -> None:
    backend = store.backend()
    put(backend, "there", b"x")
    backend.remove("there")
    backend.remove("there")

    assert raised(lambda: get(backend, "there")) is Reason.DIGEST_MISMATCH
    assert names(backend) == []


def test_a_snapshot_is_listed_from_publish_to_retire(store: Store) -> None:
    """upload -> not listed; publish -> listed whole; retire -> nothing left."""
    backend = store.backend()
    with backend.uploading(PLACE) as where:
        put(backend, f"{where}/files/a", b"a")
        put(backend, f"{where}/chunks.json", b"{}")

        assert f"{PLACE}/manifest.json" not in names(backend)
        backend.publish(PLACE, b"manifest")

    assert names(backend) == [f"{PLACE}/chunks.json", f"{PLACE}/files/a", f"{PLACE}/manifest.json"]
    with backend.reading(PLACE):
        assert get(backend, f"{PLACE}/manifest.json") == b"manifest"
    backend.retire(PLACE)
    assert names(backend) == []
    assert store.objects() == []


def test_an_interrupted_upload_is_resumed_or_swept_by_age(store: Store) -> None:
    backend = store.backend()
    with backend.uploading(PLACE) as where:
        put(backend, f"{where}/files/a", b"a")
    with backend.uploading(PLACE) as where:
        assert names(backend, where) == [f"{where}/files/a"]

    assert backend.sweep(0.0, dry_run=False) == ()
    (only,) = backend.sweep(4e9, dry_run=True)
    assert len(store.objects()) == 1
    assert backend.sweep(4e9, dry_run=False) == (only,)
    assert store.objects() == []


def test_a_sweep_keeps_listed_snapshots(store: Store) -> None:
    backend = store.backend()
    with backend.uploading(PLACE):
        backend.publish(PLACE, b"manifest")

    assert backend.sweep(4e9, dry_run=False) == ()
    assert names(backend) == [f"{PLACE}/manifest.json"]


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_a_directory_allows_one_upload_at_a_time_and_refuses_escaping_names(store: Store) -> None:
    backend = store.backend()
    (store.directory.parent / "secret").write_bytes(b"secret")
    (store.directory / "link").symlink_to(store.directory.parent / "secret")
    with backend.uploading(PLACE):
        assert raised(lambda: backend.uploading(PLACE).__enter__()) is Reason.BUSY

    assert raised(lambda: get(backend, "../secret")) is Reason.NOT_TRUSTED
    assert raised(lambda: get(backend, "link")) is Reason.NOT_TRUSTED
    assert raised(lambda: put(backend, "../new", b"x")) is Reason.NOT_TRUSTED


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_a_missing_directory_is_refused_and_not_created(store: Store) -> None:
    store.directory.rmdir()

    assert raised(lambda: put(store.backend(), "a", b"x")) is Reason.STORE_UNREACHABLE
    assert raised(lambda: names(store.backend())) is Reason.STORE_UNREACHABLE
    assert not store.directory.exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\nb", "x" * 201])
def test_an_invalid_snapshot_name_is_refused(name: str) -> None:
    assert raised(lambda: place_of(name, "0" * 16)) is Reason.REQUEST_INVALID
    assert place_in(f"{name}/{'0' * 16}/manifest.json") is None
