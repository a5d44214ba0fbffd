"""The seal: every change to a sealed artifact is detected, and an unchanged one is accepted without reading it."""

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
from restore_driver.artifact.manifest import MANIFEST_NAME, load_manifest
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
    """Make the directories writable, as root can at any time."""
    for directory in (artifact, artifact / "images"):
        directory.chmod(0o700)
    return artifact


def write_behind_its_back(artifact: Path) -> None:
    """Change content, then restore size and mtime: only ctime, which no process can set, differs."""
    path = opened_up(artifact) / PAGES
    was = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\2")
    path.chmod(0o400)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)


def replace_by(make: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """Move a file away and call `make` with its path and that of the moved original."""

    def tamper(artifact: Path) -> None:
        path, original = opened_up(artifact) / PAGES, artifact.parent / "original"
        path.rename(original)
        make(path, original)

    return tamper


def add(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def tamper(artifact: Path) -> None:
        make(opened_up(artifact) / "images" / "new")

    return tamper


def directory_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "a.img").write_bytes(b"a")


def link_the_images_away(artifact: Path) -> None:
    (opened_up(artifact) / "images").rename(artifact.parent / "images")
    (artifact / "images").symlink_to(artifact.parent / "images")


def edit_manifest(artifact: Path) -> None:
    path = opened_up(artifact) / MANIFEST_NAME
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
    "one more directory with a file": add(directory_with_a_file),
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
def test_every_tampering_breaks_the_seal_and_is_named(how: str, sealed: Path) -> None:
    TAMPERING[how](sealed)
    with pytest.raises(DriverError) as caught:
        check_seal(sealed)

    assert caught.value.reason in (Reason.SEAL_BROKEN, Reason.NOT_TRUSTED)
    assert str(sealed.parent) in caught.value.detail and caught.value.hint


FULL = ["content, times restored", "truncated", "grown", "missing", "renamed", "two files swapped", "owner"]
FULL += [how for how in TAMPERING if how.startswith(("one more", "images", "a link", "a FIFO", "a directory"))]


@pytest.mark.parametrize("how", FULL)
def test_full_verification_detects_it_as_well_and_never_blocks(how: str, sealed: Path) -> None:
    """Changes of content: a copied artifact has no seal yet."""
    TAMPERING[how](sealed)
    with pytest.raises(DriverError) as caught:
        verify_and_seal(sealed)

    assert caught.value.reason in (Reason.DIGEST_MISMATCH, Reason.NOT_TRUSTED)


def test_a_sealed_artifact_is_read_only_and_its_check_returns_the_verified_manifest(sealed: Path) -> None:
    modes = {path.relative_to(sealed).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in sealed.rglob("*")}

    assert modes == {**dict.fromkeys([*FILES, MANIFEST_NAME], 0o400), "images": 0o500}
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o500
    assert check_seal(sealed) == verify(sealed) == load_manifest(sealed)


def test_the_seal_is_made_after_the_tick_of_the_last_change(artifact: Path) -> None:
    """Where file times advance in ticks, a write within the tick of the seal would leave no trace."""
    times = [file.ctime_ns for file in verify_and_seal(artifact).files.values()]

    assert max(times) < time.clock_gettime_ns(seal._CLOCK_REALTIME_COARSE)


def test_checking_reading_and_sealing_again_keep_the_seal_valid(sealed: Path) -> None:
    before = verify_and_seal(sealed)
    (sealed / PAGES).read_bytes()
    check_seal(sealed)

    assert verify_and_seal(sealed).files == before.files
    assert check_seal(sealed).name == "snapshot"


def test_an_artifact_moved_with_its_record_stays_sealed_and_a_copy_is_not(sealed: Path) -> None:
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
    """A check costs one stat a file, of any size."""

    def refuse(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(seal, "digest_files", refuse)

    assert check_seal(sealed).name == "snapshot"


def test_an_interrupted_write_of_the_record_is_overwritten(artifact: Path) -> None:
    """After a crash between the new record and its rename, the next seal overwrites the new record."""
    left = seal_path(artifact).with_name(seal_path(artifact).name + ".new")
    left.write_bytes(b"x" * 10_000)
    verify_and_seal(artifact)

    assert not left.exists()
    assert check_seal(artifact).name == "snapshot"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_verification_detects_every_flipped_bit(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any bit of any file."""
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
