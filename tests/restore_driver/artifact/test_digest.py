"""Digests are BLAKE3 of the content for every size and way of reading; only regular files have one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_driver.artifact import digest
from restore_driver.artifact.digest import digest_file, digest_files, list_files
from restore_driver.errors import DriverError, Reason


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 64 << 20, (64 << 20) + 1])
def test_a_digest_is_that_of_the_content(size: int, tmp_path: Path) -> None:
    """Sizes around the chunk of a read, and around the threshold for mapping a file."""
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    (tmp_path / "pages.img").write_bytes(content)
    with opened(tmp_path) as directory:
        found = digest_file(directory, "pages.img")

    assert found == (size, blake3(content).hexdigest())


@settings(max_examples=30, deadline=None)
@given(contents=st.lists(st.binary(max_size=300), max_size=8), large=st.integers(1, 300))
def test_digests_in_parallel_equal_those_of_single_files(
    contents: list[bytes], large: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files on both sides of the threshold for mapping, in parallel, are returned by their own names."""
    root = tmp_path_factory.mktemp("files")
    for number, content in enumerate(contents):
        (root / f"{number}.img").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, opened(root) as directory:
        patch.setattr(digest, "_LARGE_BYTES", large)
        found = digest_files(directory, list_files(root))

    assert found == {f"{at}.img": (len(content), blake3(content).hexdigest()) for at, content in enumerate(contents)}


@pytest.mark.parametrize("name", ["link", "linked/a.img", "../outside", "/etc/passwd", "fifo", "images"])
def test_links_directories_fifos_and_escaping_names_are_refused(name: str, tmp_path: Path) -> None:
    """Opening the FIFO would block forever."""
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a.img").write_bytes(b"a")
    (tmp_path / "outside").write_bytes(b"outside")
    (root / "link").symlink_to("images/a.img")
    (root / "linked").symlink_to("images")
    os.mkfifo(root / "fifo")
    with opened(root) as directory, pytest.raises(DriverError) as caught:
        digest_file(directory, name)

    assert caught.value.reason is Reason.NOT_TRUSTED


def test_links_and_special_files_are_listed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "b.img").write_bytes(b"b")
    (tmp_path / "a.img").write_bytes(b"a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "images" / "elsewhere").symlink_to("/etc")
    os.mkfifo(tmp_path / "images" / "fifo")

    assert list_files(tmp_path) == ("a.img", "dangling", "images/deep/b.img", "images/elsewhere", "images/fifo")
