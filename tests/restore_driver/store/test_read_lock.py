"""Readers share the lock of an artifact, a removal needs it exclusively, and a killed process releases it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from restore_driver.artifact import read_lock
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.store.conftest import ROOT


def refused(manager: AbstractContextManager[None]) -> Reason:
    with pytest.raises(DriverError) as caught, manager:
        pass
    return caught.value.reason


def test_readers_share_the_lock_and_a_removal_is_refused(tmp_path: Path) -> None:
    with read_lock.shared_lock(tmp_path), read_lock.shared_lock(tmp_path):
        assert read_lock.is_locked(tmp_path)
        assert refused(read_lock.exclusive_lock(tmp_path)) is Reason.BUSY
    with read_lock.exclusive_lock(tmp_path):
        assert refused(read_lock.shared_lock(tmp_path)) is Reason.BUSY
    assert not read_lock.is_locked(tmp_path)


def test_a_lock_belongs_to_the_directory_and_not_to_its_name(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    with read_lock.shared_lock(tmp_path / "artifact"):
        (tmp_path / "artifact").rename(tmp_path / "renamed")
        (tmp_path / "artifact").mkdir()

        assert read_lock.is_locked(tmp_path / "renamed")
        assert not read_lock.is_locked(tmp_path / "artifact")


def test_a_directory_renamed_before_the_lock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prune renames it between opening and lock: the reader would lock a directory that is being removed."""
    (tmp_path / "artifact").mkdir()
    try_lock = read_lock.try_lock

    def rename_first(fd: int, *, shared: bool) -> bool:
        (tmp_path / "artifact").rename(tmp_path / ".gone-artifact")
        return try_lock(fd, shared=shared)

    monkeypatch.setattr(read_lock, "try_lock", rename_first)

    assert refused(read_lock.shared_lock(tmp_path / "artifact")) is Reason.BUSY


def test_files_links_and_missing_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "nothing"):
        assert refused(read_lock.shared_lock(tmp_path / name)) is Reason.MANIFEST_INVALID
        assert not read_lock.is_locked(tmp_path / name)


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from restore_driver.artifact import read_lock\n"
        "with read_lock.shared_lock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(1000)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"locked\n"

    assert read_lock.is_locked(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not read_lock.is_locked(tmp_path)
