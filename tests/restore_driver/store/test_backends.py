"""One contract, two stores: a directory and a real S3-compatible server."""

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
def test_what_was_written_is_read_whole_and_in_ranges(size: int, store: Store) -> None:
    backend, content = store.backend(), bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    put(backend, "a/object", content)

    assert get(backend, "a/object") == content
    assert get(backend, "a/object", size // 2) == content[size // 2 :]
    assert get(backend, "a/object", size // 3, size // 2) == content[size // 3 : size // 2]
    assert [(found.name, found.size_bytes) for found in backend.walk()] == [("a/object", size)]


@pytest.mark.parametrize("name", ODD)
def test_names_come_back_as_they_were(name: str, store: Store) -> None:
    backend = store.backend()
    put(backend, f"odd/{name}", b"content")

    assert names(backend) == [f"odd/{name}"]
    assert get(backend, f"odd/{name}") == b"content"


def test_what_was_broken_off_is_not_there(store: Store) -> None:
    backend = store.backend()
    with pytest.raises(RuntimeError), backend.write("object", 40 << 20) as write:
        for _ in range(20):
            write(bytes(1 << 20))
        raise RuntimeError

    assert names(backend) == []


def test_writing_again_replaces(store: Store) -> None:
    backend = store.backend()
    put(backend, "object", b"old and longer")
    put(backend, "object", b"new")

    assert get(backend, "object") == b"new"


def test_a_walk_takes_whole_parts_of_names(store: Store) -> None:
    backend = store.backend()
    for name in ("a/1", "a/b/2", "ab/3"):
        put(backend, name, b"x")

    assert names(backend, "a") == ["a/1", "a/b/2"]
    assert names(backend, "nothing") == []


def test_what_is_missing_is_named_and_removing_it_is_no_error(store: Store) -> None:
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
        put(backend, f"{where}/travel.json", b"{}")

        assert f"{PLACE}/manifest.json" not in names(backend)
        backend.publish(PLACE, b"manifest")

    assert names(backend) == [f"{PLACE}/files/a", f"{PLACE}/manifest.json", f"{PLACE}/travel.json"]
    with backend.reading(PLACE):
        assert get(backend, f"{PLACE}/manifest.json") == b"manifest"
    backend.retire(PLACE)
    assert names(backend) == []
    assert store.objects() == []


def test_an_upload_that_died_is_found_again_and_swept_when_it_is_old(store: Store) -> None:
    backend = store.backend()
    with backend.uploading(PLACE) as where:
        put(backend, f"{where}/files/a", b"a")
    with backend.uploading(PLACE) as where:
        assert names(backend, where) == [f"{where}/files/a"]

    assert backend.sweep(0.0, only_look=False) == ()
    (only,) = backend.sweep(4e9, only_look=True)
    assert len(store.objects()) == 1
    assert backend.sweep(4e9, only_look=False) == (only,)
    assert store.objects() == []


def test_a_sweep_leaves_what_is_listed(store: Store) -> None:
    backend = store.backend()
    with backend.uploading(PLACE):
        backend.publish(PLACE, b"manifest")

    assert backend.sweep(4e9, only_look=False) == ()
    assert names(backend) == [f"{PLACE}/manifest.json"]


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_in_a_directory_one_uploads_at_a_time_and_names_stay_within(store: Store) -> None:
    backend = store.backend()
    (store.directory.parent / "secret").write_bytes(b"secret")
    (store.directory / "link").symlink_to(store.directory.parent / "secret")
    with backend.uploading(PLACE):
        assert raised(lambda: backend.uploading(PLACE).__enter__()) is Reason.BUSY

    assert raised(lambda: get(backend, "../secret")) is Reason.NOT_TRUSTED
    assert raised(lambda: get(backend, "link")) is Reason.NOT_TRUSTED
    assert raised(lambda: put(backend, "../new", b"x")) is Reason.NOT_TRUSTED


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_a_volume_that_is_not_mounted_is_not_filled(store: Store) -> None:
    store.directory.rmdir()

    assert raised(lambda: put(store.backend(), "a", b"x")) is Reason.STORE_UNREACHABLE
    assert raised(lambda: names(store.backend())) is Reason.STORE_UNREACHABLE
    assert not store.directory.exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\nb", "x" * 201])
def test_what_can_be_no_name_of_a_snapshot_is_refused(name: str) -> None:
    assert raised(lambda: place_of(name, "0" * 16)) is Reason.REQUEST_INVALID
    assert place_in(f"{name}/{'0' * 16}/manifest.json") is None
