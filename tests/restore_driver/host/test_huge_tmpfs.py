"""A tmpfs of huge pages is mounted once, wherever it is asked for, and nothing else passes for one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.host.hugepages import is_huge_tmpfs, mount_huge_tmpfs
from restore_driver.host.mounts import mount, mount_points, unmount
from tests.restore_driver.containers import mounts_near

SIZE_BYTES = 64 << 20


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Places below a directory, all unmounted after the test, however often something was mounted there."""
    before = mounts_near(tmp_path)
    yield lambda name: tmp_path / name
    for path in reversed(mount_points()):
        if path.is_relative_to(tmp_path):
            unmount(path)
    assert mounts_near(tmp_path) == before


@pytest.mark.parametrize("name", ["images", "two/deep", "with a space", "back\\slash", "tab\tand\nline"])
def test_it_is_mounted_once_and_only_roots(name: str, at: Callable[[str], Path]) -> None:
    """What is written stays when it is asked for again."""
    path = at(name)
    mount_huge_tmpfs(path, SIZE_BYTES)
    (path / "pages.img").write_bytes(b"pages")
    mount_huge_tmpfs(path, SIZE_BYTES)
    status, room = path.stat(), os.statvfs(path)

    assert mount_points().count(path) == 1
    assert (is_huge_tmpfs(path), (path / "pages.img").read_bytes()) == (True, b"pages")
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, 0)
    assert room.f_blocks * room.f_frsize == SIZE_BYTES
    assert room.f_flag & (os.ST_NODEV | os.ST_NOSUID) == os.ST_NODEV | os.ST_NOSUID


def test_neither_a_directory_nor_an_ordinary_tmpfs_nor_what_is_gone_is_one(at: Callable[[str], Path]) -> None:
    at("plain").mkdir()
    at("small pages").mkdir()
    mount("tmpfs", at("small pages"), "tmpfs")
    mount_huge_tmpfs(at("huge"), SIZE_BYTES)
    (at("huge") / "below").mkdir()

    places = ("plain", "small pages", "gone", "huge/below", "huge")
    assert {name: is_huge_tmpfs(at(name)) for name in places} == {**dict.fromkeys(places, False), "huge": True}


def test_what_can_not_be_mounted_is_refused_with_the_place(at: Callable[[str], Path]) -> None:
    with pytest.raises(DriverError) as caught:
        mount_huge_tmpfs(at("images"), -1)

    assert (caught.value.reason, str(at("images")) in caught.value.detail) == (Reason.REQUEST_INVALID, True)
