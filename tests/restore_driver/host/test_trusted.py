"""What root may act on: owners, modes, symbolic links and `..`, each refused with the path that breaks the rule."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import open_beneath, refuse_escaping, require_trusted


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tree that the rule accepts: pytest's own directories are private to the user that runs it."""
    (tmp_path / "artifact").mkdir(mode=0o755)
    (tmp_path / "artifact" / "pages-1.img").write_bytes(b"pages")
    return tmp_path / "artifact"


def test_what_only_root_can_write_is_trusted(directory: Path) -> None:
    require_trusted(directory / "pages-1.img")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: os.chown(path, 1000, 0), "belongs to user 1000"),
        (lambda path: path.chmod(0o664), "may be written by others"),
        (lambda path: path.chmod(0o602), "may be written by others"),
        (lambda path: os.chown(path.parent, 1000, 0), "belongs to user 1000"),
        (lambda path: path.parent.chmod(0o777), "may be written by others"),
        (lambda path: (path.rename(f"{path}.real"), path.symlink_to(f"{path}.real")), "is a symbolic link"),
        (lambda path: path.unlink(), "cannot be examined"),
    ],
)
def test_what_another_could_have_written_is_refused(
    directory: Path, break_it: Callable[[Path], object], said: str
) -> None:
    path = directory / "pages-1.img"
    break_it(path)
    with pytest.raises(DriverError, match=said) as caught:
        require_trusted(path)

    assert caught.value.reason is Reason.NOT_TRUSTED


def test_a_parent_that_is_a_link_of_roots_is_followed_and_what_it_leads_to_is_judged(directory: Path) -> None:
    link = directory.parent / "link"
    link.symlink_to(directory)
    require_trusted(link / "pages-1.img")
    directory.chmod(0o777)
    with pytest.raises(DriverError, match="may be written by others"):
        require_trusted(link / "pages-1.img")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "", "a\0b", "link/passwd", "alias"])
def test_no_name_leads_out_of_the_artifact(directory: Path, name: str) -> None:
    (directory.parent / "secret").write_text("secret")
    (directory / "link").symlink_to("/etc")
    (directory / "alias").symlink_to("pages-1.img")
    fd = os.open(directory, os.O_RDONLY)
    try:
        with pytest.raises(DriverError) as caught:
            open_beneath(fd, name)
    finally:
        os.close(fd)

    assert caught.value.reason is Reason.NOT_TRUSTED


def test_a_file_within_is_opened(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    inner = open_beneath(fd, "pages-1.img")
    content = os.read(inner, 10)
    os.close(inner)
    os.close(fd)

    assert content == b"pages"


@given(before=st.lists(st.sampled_from(["a", "b.img", "."])), after=st.lists(st.sampled_from(["a", "b.img", "."])))
def test_dot_dot_is_refused_wherever_it_stands(before: list[str], after: list[str]) -> None:
    with pytest.raises(DriverError):
        refuse_escaping("/".join([*before, "..", *after]))
