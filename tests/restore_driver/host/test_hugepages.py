"""The system-wide switch for huge pages: set for a while, and put back whatever goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from restore_driver.host.hugepages import put_back_stale, transparent_huge_pages


class Switch(type(Path())):  # type: ignore[misc]  # a path's class depends on the system
    """A file that reads as the kernel's switch does; `refuses` what may not be written."""

    refuses: tuple[str, ...] = ()

    def write_text(self, data: str, *_: object, **__: object) -> int:
        if data in self.refuses:
            raise PermissionError(13, "Permission denied", str(self))
        words = " ".join(f"[{word}]" if word == data else word for word in ("always", "madvise", "never"))
        return super().write_text(words)  # type: ignore[no-any-return]


@pytest.fixture
def switch(tmp_path: Path) -> Switch:
    made = Switch(tmp_path / "enabled")
    made.write_text("madvise")
    return made


def setting(switch: Switch) -> str:
    return str(switch.read_text().split("[")[1].split("]")[0])


def test_the_last_of_several_puts_it_back(switch: Switch, tmp_path: Path) -> None:
    seen = []
    with transparent_huge_pages("always", tmp_path, switch) as first:
        with transparent_huge_pages("always", tmp_path, switch) as second:
            seen.append(setting(switch))
        seen.append(setting(switch))

    assert (first, second, seen, setting(switch)) == (True, True, ["always", "always"], "madvise")


def test_a_switch_that_may_not_be_set_is_done_without_and_forgotten(switch: Switch, tmp_path: Path) -> None:
    """Afterwards it may be: then it is put back as ever."""
    warnings: list[str] = []
    switch.refuses = ("always",)
    with transparent_huge_pages("always", tmp_path, switch, warn=warnings.append) as huge:
        assert setting(switch) == "madvise"
    switch.refuses = ()
    with transparent_huge_pages("always", tmp_path, switch) as later:
        assert setting(switch) == "always"

    assert (huge, later, setting(switch)) == (False, True, "madvise")
    assert warnings == [f"no huge pages: {switch} cannot be set to always: Permission denied"]


def test_a_missing_switch_is_done_without(tmp_path: Path) -> None:
    with transparent_huge_pages("always", tmp_path, Switch(tmp_path / "none" / "enabled")) as huge:
        pass
    assert huge is False


def test_what_cannot_be_put_back_is_said_and_tried_again(switch: Switch, tmp_path: Path) -> None:
    warnings: list[str] = []
    with transparent_huge_pages("always", tmp_path, switch, warn=warnings.append) as huge:
        switch.refuses = ("madvise",)
    assert (huge, warnings) == (True, [f"not put back: {switch} cannot be set to madvise: Permission denied"])
    assert put_back_stale(tmp_path, switch) is False
    switch.refuses = ()

    assert (put_back_stale(tmp_path, switch), setting(switch)) == (True, "madvise")
    assert put_back_stale(tmp_path, switch) is False


def test_a_user_that_was_killed_is_forgotten_and_one_that_lives_is_not(switch: Switch, tmp_path: Path) -> None:
    record = tmp_path / "transparent-huge-pages.json"
    code = (
        "import os, pathlib; from restore_driver.host.hugepages import *\n"
        f"where, switch = pathlib.Path({str(tmp_path)!r}), pathlib.Path({str(switch)!r})\n"
        "entered = transparent_huge_pages('always', where, switch)\n"
        "entered.__enter__()\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    with transparent_huge_pages("always", tmp_path, switch):
        assert put_back_stale(tmp_path, switch) is False
        assert len(json.loads(record.read_text())["users"]) == 1

    assert (setting(switch), json.loads(record.read_text())) == ("madvise", {"users": [], "was": ""})
