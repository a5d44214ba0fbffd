"""The seal: a sealed artifact that anybody changed, in whatever way, is not trusted; one left alone is, at a glance."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore_driver.artifact import seal
from restore_driver.artifact.manifest import NAME, load
from restore_driver.artifact.seal import check_seal, seal_path, verify, verify_and_seal
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.artifact.conftest import FILES, publish

PAGES = "images/pages-1.img"


@pytest.fixture
def sealed(artifact: Path) -> Path:
    """A sealed artifact."""
    verify_and_seal(artifact)
    return artifact


def opened_up(artifact: Path) -> Path:
    """What root may do at any time: its modes are no protection from root, the seal is."""
    for directory in (artifact, artifact / "images"):
        directory.chmod(0o700)
    return artifact


def write_behind_its_back(artifact: Path) -> None:
    """Same size, both times as they were: only ctime, which nobody can set, tells."""
    path = opened_up(artifact) / PAGES
    was = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\2")
    path.chmod(0o400)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)


def replace_by(make: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """Takes a file away and has something put in its place; it gets the old file's path and the original's."""

    def tamper(artifact: Path) -> None:
        path, original = opened_up(artifact) / PAGES, artifact.parent / "original"
        path.rename(original)
        make(path, original)

    return tamper


def add(make: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda artifact: (make(opened_up(artifact) / "images" / "new"), None)[1]


def link_the_images_away(artifact: Path) -> None:
    (opened_up(artifact) / "images").rename(artifact.parent / "images")
    (artifact / "images").symlink_to(artifact.parent / "images")


def edit_manifest(artifact: Path) -> None:
    path = opened_up(artifact) / NAME
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"root_pid": 9', b'"root_pid": 8'))


TAMPERING: dict[str, Callable[[Path], object]] = {
    "content, times restored": write_behind_its_back,
    "truncated": lambda artifact: os.truncate(opened_up(artifact) / PAGES, 8999),
    "grown": lambda artifact: os.truncate(opened_up(artifact) / PAGES, 9001),
    "a copy in its place": replace_by(lambda path, original: shutil.copy2(original, path)),
    "a link in its place": replace_by(lambda path, original: path.symlink_to(original)),
    "a FIFO in its place": replace_by(lambda path, original: os.mkfifo(path, 0o400)),
    "a directory in its place": replace_by(lambda path, original: path.mkdir()),
    "a hard link elsewhere": lambda artifact: os.link(artifact / PAGES, artifact.parent / "second"),
    "taken away and put back": replace_by(lambda path, original: original.rename(path)),
    "two files swapped": replace_by(
        lambda path, original: ((path.parent / "core-9.img").rename(path), original.rename(path.parent / "core-9.img"))
    ),
    "missing": replace_by(lambda path, original: None),
    "renamed": lambda artifact: (opened_up(artifact) / PAGES).rename(artifact / "images" / "pages-2.img"),
    "mode": lambda artifact: (artifact / PAGES).chmod(0o600),
    "owner": lambda artifact: os.chown(artifact / PAGES, 1000, 1000),
    "times": lambda artifact: os.utime(artifact / PAGES),
    "one more file": add(lambda path: path.write_bytes(b"")),
    "one more link": add(lambda path: path.symlink_to("core-9.img")),
    "one more link to a directory": add(lambda path: path.symlink_to("/etc")),
    "one more FIFO": add(os.mkfifo),
    "one more directory with a file": add(lambda path: (path.mkdir(), (path / "a.img").write_bytes(b"a"))),
    "a link in the place of the images": link_the_images_away,
    "images that another owns": lambda artifact: os.chown(artifact / "images", 1000, 0),
    "images that others may write": lambda artifact: (artifact / "images").chmod(0o777),
    "the artifact is another's": lambda artifact: os.chown(artifact, 1000, 0),
    "others may write the artifact": lambda artifact: artifact.chmod(0o720),
    "others may write beside it": lambda artifact: artifact.parent.chmod(0o777),
    "manifest edited": edit_manifest,
    "record gone": lambda artifact: seal_path(artifact).unlink(),
    "record emptied": lambda artifact: os.truncate(seal_path(artifact), 0),
    "record torn": lambda artifact: os.truncate(seal_path(artifact), 100),
    "record edited": lambda artifact: seal_path(artifact).write_text(
        seal_path(artifact).read_text().replace('"size_bytes":9000', '"size_bytes":9001')
    ),
    "record with a field more": lambda artifact: seal_path(artifact).write_text(
        seal_path(artifact).read_text().replace('"verity"', '"more":1,"verity"')
    ),
    "record of another artifact": lambda artifact: shutil.copy2(
        seal_path(another(artifact.with_name("another"))), seal_path(artifact)
    ),
    "record that is another's": lambda artifact: os.chown(seal_path(artifact), 1000, 0),
    "record that others may write": lambda artifact: seal_path(artifact).chmod(0o606),
    "record that is a link": lambda artifact: seal_path(artifact).symlink_to(
        seal_path(artifact).rename(artifact.parent / "elsewhere")
    ),
}


def another(path: Path) -> Path:
    verify_and_seal(publish(path))
    return path


@pytest.mark.parametrize("how", TAMPERING)
def test_any_tampering_breaks_the_seal(how: str, sealed: Path) -> None:
    """... and names what it was done to."""
    TAMPERING[how](sealed)
    with pytest.raises(DriverError) as caught:
        check_seal(sealed)

    assert caught.value.reason in (Reason.SEAL_BROKEN, Reason.NOT_TRUSTED)
    assert str(sealed.parent) in caught.value.detail and caught.value.hint


FULL = ["content, times restored", "truncated", "grown", "missing", "renamed", "two files swapped", "owner"]
FULL += [how for how in TAMPERING if how.startswith(("one more", "images", "a link", "a FIFO", "a directory"))]


@pytest.mark.parametrize("how", FULL)
def test_full_verification_finds_it_too_and_never_waits(how: str, sealed: Path) -> None:
    """What is no seal's matter but the content's: whoever copied the artifact here has no seal yet."""
    TAMPERING[how](sealed)
    with pytest.raises(DriverError) as caught:
        verify_and_seal(sealed)

    assert caught.value.reason in (Reason.DIGEST_MISMATCH, Reason.NOT_TRUSTED)


def test_a_sealed_artifact_is_read_only_and_as_good_as_verified(sealed: Path) -> None:
    modes = {path.relative_to(sealed).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in sealed.rglob("*")}

    assert modes == {**dict.fromkeys([*FILES, NAME], 0o400), "images": 0o500}
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o500
    assert check_seal(sealed) == verify(sealed) == load(sealed)


def test_a_file_is_sealed_in_a_tick_that_is_over(artifact: Path) -> None:
    """Where times of files go by ticks of the clock, a write in the tick of the seal would leave no trace."""
    times = [file.ctime_ns for file in verify_and_seal(artifact).files.values()]

    assert max(times) < time.clock_gettime_ns(seal._CLOCK_REALTIME_COARSE)


def test_looking_reading_and_sealing_again_break_nothing(sealed: Path) -> None:
    before = verify_and_seal(sealed)
    (sealed / PAGES).read_bytes()
    check_seal(sealed)

    assert verify_and_seal(sealed).files == before.files
    assert check_seal(sealed).name == "snapshot"


def test_moved_together_with_its_record_it_stays_sealed_and_copied_it_does_not(sealed: Path) -> None:
    copy = sealed.with_name("copy")
    shutil.copytree(sealed, copy)
    shutil.copy2(seal_path(sealed), seal_path(copy))
    sealed.rename(sealed.with_name("moved"))
    seal_path(sealed).rename(seal_path(sealed.with_name("moved")))
    with pytest.raises(DriverError) as caught:
        check_seal(copy)

    assert caught.value.reason is Reason.SEAL_BROKEN
    assert check_seal(sealed.with_name("moved")) == verify(copy)


def test_checking_reads_no_content(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glance costs a stat a file, however large they are."""

    def refuse(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(seal, "digest_files", refuse)

    assert check_seal(sealed).name == "snapshot"


def test_a_seal_whose_writing_was_cut_off_is_made_again(artifact: Path) -> None:
    """A crash between the new record and its rename: the next one overwrites what lies there."""
    left = seal_path(artifact).with_name(seal_path(artifact).name + ".new")
    left.write_bytes(b"x" * 10_000)
    verify_and_seal(artifact)

    assert not left.exists()
    assert check_seal(artifact).name == "snapshot"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_verifying_finds_every_flipped_bit(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whichever bit of whichever file, on both sides of the size from which on files are mapped."""
    artifact = publish(tmp_path_factory.mktemp("artifacts") / "snapshot")
    name = data.draw(st.sampled_from(sorted(name for name, content in FILES.items() if content)))
    bit = data.draw(st.integers(0, len(FILES[name]) * 8 - 1))
    content = bytearray(FILES[name])
    content[bit // 8] ^= 1 << bit % 8
    (artifact / name).write_bytes(content)
    with pytest.raises(DriverError) as caught:
        verify(artifact)

    assert (caught.value.reason, caught.value.detail) == (
        Reason.DIGEST_MISMATCH,
        f"{artifact / name} is not what was dumped",
    )
