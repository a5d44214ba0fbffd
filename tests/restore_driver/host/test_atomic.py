"""Durable writes: whole or not at all, durable once they return, and nothing left beside the file."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from restore_driver.host import atomic
from restore_driver.host.atomic import atomic_file, replace_keeping_owner, write_atomically


def test_a_write_replaces_the_whole_content_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"a longer first content")
    write_atomically(path, b"second")

    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["record.json"]


def test_content_and_directory_are_fsynced_before_a_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content before the rename, or a crash could leave an empty file under the name; the directory after it."""
    path, events, fsync, rename = tmp_path / "record", [], os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        events.append(f"fsync {os.readlink(f'/proc/self/fd/{fd}')}")
        fsync(fd)

    def note_rename(old: Path, new: Path) -> None:
        events.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    write_atomically(path, b"content")

    assert events == [f"fsync {path}.new", "rename", f"fsync {tmp_path}"]


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record"
    write_atomically(path, b"old")

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record"]


def test_the_temporary_file_of_a_killed_writer_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "record.new").write_bytes(b"half of a much longer content")
    write_atomically(tmp_path / "record", b"whole")

    assert (tmp_path / "record").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["record"]


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "record.new").symlink_to("target")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "record", b"content")

    assert (tmp_path / "target").read_bytes() == b"precious"


def test_concurrent_writers_take_turns(tmp_path: Path) -> None:
    """Each content is whole: a second writer waits for the first one's temporary file, then makes its own."""
    path, contents = tmp_path / "record", [bytes([letter]) * 4096 for letter in b"abcdefgh"]
    started = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        started.wait(20.0)
        for _ in range(20):
            write_atomically(path, content)
            assert path.read_bytes() in contents

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["record"]


def test_a_file_appears_only_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with atomic_file(path, temporary=tmp_path / ".half") as fd:
        os.write(fd, b"content")
        during = sorted(os.listdir(tmp_path))

    assert (during, path.read_bytes()) == ([".half"], b"content")


def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(atomic, "lock", refuse)
    write_atomically(tmp_path / "record", b"content")

    assert (tmp_path / "record").read_bytes() == b"content"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_replacement_takes_owner_and_mode_along(tmp_path: Path) -> None:
    old, new = tmp_path / "pages.img", tmp_path / "pages.new"
    old.write_bytes(b"old")
    os.chown(old, 1000, 1001)
    old.chmod(0o640)
    new.write_bytes(b"new")
    replace_keeping_owner(new, old)
    status = old.stat()

    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 1001, 0o640)
    assert (old.read_bytes(), new.exists()) == (b"new", False)
