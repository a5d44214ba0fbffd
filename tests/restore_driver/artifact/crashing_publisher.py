"""Publish an artifact repeatedly, killed each time a line later, and print the state after each kill.

    python -m tests.restore_driver.artifact.crashing_publisher DIRECTORY [--older]

A line of JSON for each kill: where it happened, which artifact verifies afterwards, and what is left after a sweep.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from restore_driver.artifact import publish as publishing
from restore_driver.artifact.manifest import load_manifest
from restore_driver.artifact.publish import Draft, sweep
from restore_driver.artifact.seal import seal_as_it_is, verify
from restore_driver.errors import DriverError
from restore_driver.host import disk
from tests.restore_driver.artifact.conftest import about, publish

OLD, NEW = {"images/a.img": b"old" * 2000}, {"images/a.img": b"new", "images/b.img": b"new too"}


class Killer:
    """Kill the process at the nth line that `publish.py` or `disk.py` executes, or when a named step begins."""

    def __init__(self, at_line: int, at_step: str) -> None:
        self._left, self._step = at_line, at_step

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in (publishing.__file__, disk.__file__):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.trace

    def step(self, name: str) -> None:
        if name == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def attempt(target: Path, killer: Killer) -> bool:
    """Publish in a process of its own; return True if it was killed."""
    child = os.fork()
    if child == 0:
        sys.settrace(killer.trace)
        draft = Draft.open(target)
        (draft.path / "images").mkdir()
        for name, content in NEW.items():
            (draft.path / name).write_bytes(content)
        draft.commit(about(), killer.step)
        draft.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def verified_content(target: Path) -> str:
    if not os.path.lexists(target):
        return "nothing"
    try:
        verify(target)
    except DriverError as error:
        return str(error)
    return "old" if len(load_manifest(target).files) == len(OLD) else "new"


def main() -> None:
    root, older = Path(sys.argv[1]), "--older" in sys.argv
    steps = ["digest", "sync", "manifest", "rename", "remove old"]
    at: int | str
    for at in (*steps, *range(1, 10_000)):
        target = root / "snapshot"
        if older:
            seal_as_it_is(publish(target, OLD))
        killed = attempt(target, Killer(at, "") if isinstance(at, int) else Killer(0, at))
        seen = verified_content(target)
        sweep(root)
        left = sorted(path.name for path in root.iterdir())
        print(json.dumps({"at": at, "killed": killed, "seen": seen, "after": verified_content(target), "left": left}))
        if not killed and isinstance(at, int):
            break
        shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    main()
