"""What a replica's control holds, with no GPU behind it; and who holds its steps up."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from restore_driver.replica import control as module
from restore_driver.replica.control import ReplicaControl
from restore_driver.replica.vmm import VmmError

LONG_S = 20.0


class Range:
    """As `vmm.Range`, with nothing behind it."""

    size_bytes, ordinal = 4096, 0

    def __init__(self) -> None:
        self.mapped, self.unmapping_fails = True, False

    def map_own(self) -> None:
        self.mapped = True

    def map_imported(self, fd: int) -> None:
        self.mapped = True

    def unmap(self) -> None:
        if self.unmapping_fails:
            raise RuntimeError("cuMemUnmap failed")
        self.mapped = False


class Holding:
    """As `WeightsRange` and `ScratchRange`."""

    def __init__(self) -> None:
        self.range = Range()

    def digest(self) -> str:
        assert self.range.mapped, "on a GPU, this would have cost the replica its context"
        return "d"


class Holder:
    """As `HolderClient`; each copy ends as the test says."""

    ends: ClassVar[list[Exception | None]] = []
    asked_s: ClassVar[list[float]] = []
    """Deadlines that it was asked with."""

    def __init__(self, path: str) -> None:
        self.path = path

    def take(self, token: str, deadline_s: float) -> tuple[int, int]:
        self.asked_s.append(deadline_s)
        return -1, Range.size_bytes

    def wait(self, token: str, deadline_s: float) -> dict[str, Any]:
        self.asked_s.append(deadline_s)
        end = self.ends.pop(0)
        if end is not None:
            raise end
        return {"bytes": Range.size_bytes}

    def done(self, token: str, deadline_s: float) -> None:
        self.asked_s.append(deadline_s)

    def close(self) -> None:
        return


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ReplicaControl]:
    torch: Any = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(
        set_device=lambda ordinal: None, synchronize=lambda ordinal: None, empty_cache=lambda: None
    )
    Holder.ends, Holder.asked_s = [], []
    torch._C = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(module, "HolderClient", Holder)
    weights: dict[str, Any] = {"a": Holding(), "b": Holding()}
    scratch: list[Any] = [Holding()]
    yield ReplicaControl(str(tmp_path / "control.sock"), weights=weights, scratch=scratch)


def mapped(control: ReplicaControl) -> list[bool]:
    return [piece.mapped for piece in control._ranges()]


class Stacks:
    """As `stacks.Stacks`; `there` tells whether a kernel would find them."""

    def __init__(self) -> None:
        self.there, self.none_left = True, False

    def release(self, ordinal: int) -> None:
        self.there = False

    def restore(self, ordinal: int) -> None:
        if self.none_left:
            raise VmmError("cuCtxSetLimit: CUDA_ERROR_OUT_OF_MEMORY")
        self.there = True


class Step:
    """A step that lasts until `end`."""

    def __init__(self, control: ReplicaControl) -> None:
        self.control, self.runs, self._end = control, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self.control.step():
            self.runs.set()
            self._end.wait(LONG_S)

    def end(self) -> None:
        self._end.set()
        self.thread.join(LONG_S)
