"""Readers share an artifact, a remover has it alone or goes away; a holder that dies lets go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from restore_driver.artifact import read_lock
from restore_driver.errors import DriverError, Reason
from tests.restore_driver.store.conftest import ROOT


def refused(manager: object) -> Reason:
    with pytest.raises(DriverError) as caught, manager:  # type: ignore[attr-defined]
        pass
    return caught.value.reason


def test_readers_share_and_a_remover_is_told(tmp_path: Path) -> None:
    with read_lock.reading(tmp_path), read_lock.reading(tmp_path):
        assert read_lock.is_held(tmp_path)
        assert refused(read_lock.alone(tmp_path)) is Reason.BUSY
    with read_lock.alone(tmp_path):
        assert refused(read_lock.reading(tmp_path)) is Reason.BUSY
    assert not read_lock.is_held(tmp_path)


def test_a_hold_goes_with_the_directory_and_not_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    with read_lock.reading(tmp_path / "artifact"):
        (tmp_path / "artifact").rename(tmp_path / "renamed")
        (tmp_path / "artifact").mkdir()

        assert read_lock.is_held(tmp_path / "renamed")
        assert not read_lock.is_held(tmp_path / "artifact")


def test_one_that_is_renamed_before_the_lock_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened, then put away by a prune, then locked: the reader would hold what nobody finds any more."""
    (tmp_path / "artifact").mkdir()
    try_lock = read_lock.try_lock

    def rename_first(fd: int, *, shared: bool) -> bool:
        (tmp_path / "artifact").rename(tmp_path / ".gone-artifact")
        return try_lock(fd, shared=shared)

    monkeypatch.setattr(read_lock, "try_lock", rename_first)

    assert refused(read_lock.reading(tmp_path / "artifact")) is Reason.BUSY


def test_what_is_no_directory_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "nothing"):
        assert refused(read_lock.reading(tmp_path / name)) is Reason.MANIFEST_INVALID
        assert not read_lock.is_held(tmp_path / name)


def test_the_hold_of_a_killed_process_is_none(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from restore_driver.artifact import read_lock\n"
        "with read_lock.reading(Path(sys.argv[1])): print('held', flush=True); time.sleep(1000)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"held\n"

    assert read_lock.is_held(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not read_lock.is_held(tmp_path)
