"""CRIU's look at the kernel is made once, and given to each CRIU where no container can reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from restore_driver.criu import kerndat
from restore_driver.criu.find import find_criu
from tests.restore_driver.containers import mounts_near

CONTENT = b"what CRIU knows of this kernel" * 100


def test_this_criu_writes_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    mounts = mounts_near(tmp_path)
    cache = kerndat.make(find_criu(), tmp_path)

    assert cache is not None and len(cache) > 100
    assert (list(tmp_path.iterdir()), mounts_near(tmp_path)) == ([], mounts)


def test_it_is_there_while_criu_works_and_gone_after(tmp_path: Path) -> None:
    """In CRIU's working directory, which is only root's; and nothing of it stays, whatever happens meanwhile."""
    with pytest.raises(ZeroDivisionError), kerndat.kept_in(tmp_path, CONTENT):
        there = (tmp_path / "criu.kdat").read_bytes(), (tmp_path / "criu.kdat").stat().st_mode & 0o777
        (tmp_path / "criu.kdat.tmp").write_bytes(b"half")
        raise ZeroDivisionError

    assert there == (CONTENT, 0o600)
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_driver_left_there_is_not_believed(tmp_path: Path) -> None:
    """The kernel may be another by now."""
    (tmp_path / "criu.kdat").write_bytes(b"of an older kernel")
    with kerndat.kept_in(tmp_path, None):
        assert list(tmp_path.iterdir()) == []
