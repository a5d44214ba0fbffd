"""The switch within a replica: quiet or running, never half of either, whatever fails or comes too late."""

from __future__ import annotations

import json
import socket
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from restore_driver.replica import control as module
from restore_driver.replica.control import ReplicaControl

LONG_S = 20.0


class Range:
    """As `vmm.Range`, with nothing behind it."""

    size_bytes = 4096

    def __init__(self) -> None:
        self.mapped = True

    def map_own(self) -> None:
        self.mapped = True

    def map_imported(self, fd: int) -> None:
        self.mapped = True

    def unmap(self) -> None:
        self.mapped = False


class Holding:
    """As `WeightsRange` and `ScratchRange`."""

    def __init__(self) -> None:
        self.range = Range()

    def digest(self) -> str:
        assert self.range.mapped, "on a card, this would have cost the replica its context"
        return "d"


class Holder:
    """As `HolderClient`; each copy ends as the test says."""

    ends: ClassVar[list[Exception | None]] = []

    def __init__(self, path: str) -> None:
        self.path = path

    def take(self, token: str, deadline_s: float) -> tuple[int, int]:
        return -1, Range.size_bytes

    def wait(self, token: str, deadline_s: float) -> dict[str, Any]:
        end = self.ends.pop(0)
        if end is not None:
            raise end
        return {"bytes": Range.size_bytes}

    def done(self, token: str, deadline_s: float) -> None:
        return

    def close(self) -> None:
        return


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ReplicaControl]:
    torch: Any = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(
        set_device=lambda ordinal: None, synchronize=lambda ordinal: None, empty_cache=lambda: None
    )
    torch._C = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(module, "HolderClient", Holder)
    made: Any = ReplicaControl(
        str(tmp_path / "control.sock"), weights={"a": Holding(), "b": Holding()}, scratch=[Holding()]
    )
    yield made


def mapped(control: ReplicaControl) -> list[bool]:
    return [piece.mapped for piece in control._ranges()]


class Step:
    """A step that lasts until it is told to end."""

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


def test_a_timeline(control: ReplicaControl) -> None:
    control.quiesce()
    assert mapped(control) == [False] * 3
    waiting = Step(control)
    assert not waiting.runs.wait(0.1)

    Holder.ends = [None, None]
    control.resume({"a": "t", "b": "t"}, "/holder")
    assert (mapped(control), control.digest()) == ([True] * 3, "d.d")
    assert waiting.runs.wait(LONG_S)
    waiting.end()


def test_a_step_that_runs_too_long_leaves_all_as_it_was(control: ReplicaControl) -> None:
    """Nothing is unmapped under it, neither then nor when it ends; and other steps are let in again."""
    step = Step(control)
    assert step.runs.wait(LONG_S)
    with pytest.raises(TimeoutError, match="a step did not end in time"):
        control.quiesce(0.05)
    other = Step(control)

    assert other.runs.wait(LONG_S)
    step.end()
    other.end()
    assert mapped(control) == [True] * 3


def test_a_resume_calls_off_a_quiesce_that_still_waits(control: ReplicaControl) -> None:
    """The driver gave up and undoes; the step ends later, and must not find the replica quiet for ever."""
    step = Step(control)
    assert step.runs.wait(LONG_S)
    raised: list[BaseException] = []

    def quiesce() -> None:
        with suppress(OSError):
            try:
                control.quiesce(LONG_S)
            except TimeoutError as error:
                raised.append(error)

    asking = threading.Thread(target=quiesce)
    asking.start()
    while not control._quiet:
        asking.join(0.001)
    control.resume({}, None)
    asking.join(LONG_S)
    step.end()

    assert [str(error) for error in raised] == ["it was called off by a resume"]
    assert mapped(control) == [True] * 3
    after = Step(control)
    assert after.runs.wait(LONG_S)
    after.end()


def test_half_a_model_is_none(control: ReplicaControl) -> None:
    """The copy of the second model fails after it was mapped: it is unmapped, the replica stays quiet, and the next
    resume takes it anew."""
    control.quiesce()
    Holder.ends = [None, RuntimeError("the holder ended")]
    with pytest.raises(RuntimeError, match="the holder ended"):
        control.resume({"a": "t", "b": "t"}, "/holder")
    assert mapped(control) == [True, False, True]
    waiting = Step(control)
    assert not waiting.runs.wait(0.1)

    Holder.ends = [None]
    control.resume({"b": "t"}, "/holder")
    assert mapped(control) == [True] * 3
    assert waiting.runs.wait(LONG_S)
    waiting.end()


def test_no_digest_of_what_is_not_there(control: ReplicaControl) -> None:
    control.quiesce()
    with pytest.raises(RuntimeError, match="the weights of a are not on the card"):
        control.digest()


def test_compile_workers_that_do_not_end_in_time_change_nothing(control: ReplicaControl) -> None:
    ended = threading.Event()
    control._ending_workers = threading.Thread(target=ended.wait, args=(LONG_S,), daemon=True)
    control._ending_workers.start()
    with pytest.raises(TimeoutError, match="the compile workers did not end in time"):
        control.quiesce(0.05)
    ended.set()

    assert mapped(control) == [True] * 3
    assert control.quiesce()["released_bytes"] == 3 * Range.size_bytes


def test_the_state_is_told_while_a_quiesce_waits(control: ReplicaControl) -> None:
    """A thread a connection; and what is no request is answered, too."""
    control.start()
    step = Step(control)
    assert step.runs.wait(LONG_S)
    with ask(control, {"op": "quiesce", "deadline_s": LONG_S}) as quiescing:
        while not control._quiet:
            step.thread.join(0.001)
        assert told(ask(control, {"op": "state"})) == {"ok": True, "quiet": True, "mapped": [True] * 3}
        assert told(ask(control, {"op": "dance"}))["detail"] == "ValueError: there is no op 'dance'"
        assert told(ask(control, []))["ok"] is False
        step.end()
        assert told(quiescing)["released_bytes"] == 3 * Range.size_bytes


def ask(control: ReplicaControl, message: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(LONG_S)
    connection.connect(control.path)
    connection.sendall((json.dumps(message) + "\n").encode())
    return connection


def told(connection: socket.socket) -> dict[str, Any]:
    with connection, connection.makefile("rb") as lines:
        answer: dict[str, Any] = json.loads(lines.readline())
    return answer
