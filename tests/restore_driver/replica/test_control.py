"""The switch within a replica: quiet or running, never half of either, whatever fails or comes too late."""

from __future__ import annotations

import sys
import threading
import time
import types
from contextlib import suppress
from typing import Any

import pytest

from restore_driver.replica import control as module
from restore_driver.replica.control import ReplicaControl
from restore_driver.replica.vmm import VmmError
from tests.restore_driver.replica.stand_ins import LONG_S, Holder, Range, Stacks, Step, control, mapped
from tests.restore_driver.waiting import eventually

__all__ = ["control"]


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


def test_no_step_runs_without_its_stacks(control: ReplicaControl) -> None:
    """They are gone while the replica is quiet, and back before a step or `on_resume` may need them; a resume that
    finds no room for them fails, and can be asked again."""
    stacks: Any = Stacks()
    control._stacks, seen = stacks, []
    control.on_quiesce, control.on_resume = lambda: seen.append(stacks.there), lambda: seen.append(stacks.there)
    control.quiesce()
    assert not stacks.there
    waiting = Step(control)

    stacks.none_left = True
    with pytest.raises(VmmError, match="OUT_OF_MEMORY"):
        control.resume({"a": "t", "b": "t"}, "/holder")
    assert not waiting.runs.wait(0.1)
    stacks.none_left, Holder.ends = False, [None, None]
    control.resume({"a": "t", "b": "t"}, "/holder")
    assert waiting.runs.wait(LONG_S) and stacks.there
    assert seen == [True, True]
    waiting.end()


@pytest.mark.parametrize("none_left", [False, True])
def test_a_quiesce_that_fails_after_them_gives_the_stacks_back(
    none_left: bool, control: ReplicaControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline passes as the stacks are given up. Where their memory was taken meanwhile, steps run without: a
    launch makes what it needs."""
    late_s = [0.0]
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: time.monotonic() + late_s[0]))

    class Slow(Stacks):
        def release(self, ordinal: int) -> None:
            super().release(ordinal)
            self.none_left, late_s[0] = none_left, LONG_S

    stacks: Any = Slow()
    control._stacks = stacks
    with pytest.raises(TimeoutError, match="the replica did not finish in time"):
        control.quiesce(LONG_S)

    assert stacks.there is not none_left
    assert mapped(control) == [True] * 3
    step = Step(control)
    assert step.runs.wait(LONG_S)
    step.end()


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
    eventually(lambda: control._quiet, "the quiesce at work")
    control.resume({}, None)
    asking.join(LONG_S)
    step.end()

    assert [str(error) for error in raised] == ["it was cancelled by a resume"]
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
    with pytest.raises(RuntimeError, match="the weights of a are not on the GPU"):
        control.digest()


def test_compile_workers_that_do_not_end_in_time_change_nothing(
    control: ReplicaControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those that were there when it began, nor those that the last steps began."""
    ended = threading.Event()
    monkeypatch.setattr(module, "end_compile_workers", lambda: ended.wait(LONG_S))
    with pytest.raises(TimeoutError, match="the compile workers did not end in time"):
        control.quiesce(0.05)
    assert (mapped(control), control._quiet) == ([True] * 3, False)
    ended.set()
    assert control.quiesce(LONG_S)["released_bytes"] == 3 * Range.size_bytes
    Holder.ends = [None, None]
    control.resume({"a": "t", "b": "t"}, "/holder")

    calls: list[bool] = [False, True]
    ended.clear()
    monkeypatch.setattr(module, "end_compile_workers", lambda: ended.wait(LONG_S if calls.pop(0) else 0.0))
    with pytest.raises(TimeoutError, match="the compile workers did not end in time"):
        control.quiesce(0.2)
    assert (mapped(control), control._quiet) == ([True] * 3, False)
    ended.set()


def test_a_resume_calls_off_a_quiesce_wherever_it_waits(
    control: ReplicaControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For workers, for the GPU, for the replica's own hook: the resume comes too soon for a later look to see it."""
    torch: Any = sys.modules["torch"]
    for place in ("workers", "GPU", "hook"):
        reached, goes_on, raised = threading.Event(), threading.Event(), list[str]()

        def wait(*_: object, reached: threading.Event = reached, goes_on: threading.Event = goes_on) -> None:
            reached.set()
            goes_on.wait(LONG_S)

        with monkeypatch.context() as patch:
            if place == "workers":
                patch.setattr(module, "end_compile_workers", wait)
            elif place == "GPU":
                patch.setattr(torch.cuda, "synchronize", wait)
            else:
                patch.setattr(control, "on_quiesce", wait)
            quiescing = threading.Thread(target=quiesce_into, args=(control, raised))
            quiescing.start()
            assert reached.wait(LONG_S)
            with suppress(TimeoutError):  # the undo, whose patience ends before the GPU's or the hook's work does
                control.resume({}, None, 0.05)
            goes_on.set()
            quiescing.join(LONG_S)

        assert (place, raised) == (place, ["it was cancelled by a resume"])
        assert (mapped(control), control._quiet) == ([True] * 3, False)


def quiesce_into(control: ReplicaControl, raised: list[str]) -> None:
    try:
        control.quiesce(LONG_S)
    except Exception as error:
        raised.append(str(error))


def test_gpu_that_synchronizes_too_late_is_not_unmapped(
    control: ReplicaControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps end when their kernels are launched; the client has given up by the time the kernels end."""
    late = threading.Event()
    monkeypatch.setattr(sys.modules["torch"].cuda, "synchronize", lambda ordinal: late.wait(0.2))
    with pytest.raises(TimeoutError, match="did not finish in time"):
        control.quiesce(0.1)

    assert (mapped(control), control._quiet) == ([True] * 3, False)


def test_the_replicas_hooks_come_in_pairs(control: ReplicaControl) -> None:
    """A resume after a quiesce that never began (an undo) must not touch a cache that a step works with."""
    called: list[str] = []
    control.on_quiesce, control.on_resume = lambda: called.append("quiet"), lambda: called.append("awake")
    step = Step(control)
    assert step.runs.wait(LONG_S)
    with pytest.raises(TimeoutError):
        control.quiesce(0.05)
    control.resume({}, None)
    step.end()
    assert called == []

    control.quiesce()
    Holder.ends = [None, RuntimeError("the holder ended"), None]
    with pytest.raises(RuntimeError):
        control.resume({"a": "t", "b": "t"}, "/holder")
    control.resume({"b": "t"}, "/holder")
    assert called == ["quiet", "awake"]


def test_a_hook_that_fails_leaves_the_replica_running(control: ReplicaControl) -> None:
    called: list[str] = []

    def fail() -> None:
        raise ValueError("no rest")

    control.on_quiesce, control.on_resume = fail, lambda: called.append("awake")
    with pytest.raises(ValueError, match="no rest"):
        control.quiesce()

    assert (called, mapped(control), control._quiet) == (["awake"], [True] * 3, False)


def test_a_quiesce_repeated_while_quiet_stays_quiet_whatever_comes_of_it(
    control: ReplicaControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.quiesce()
    monkeypatch.setattr(sys.modules["torch"].cuda, "synchronize", lambda ordinal: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        control.quiesce()

    assert (mapped(control), control._quiet) == ([False] * 3, True)


def test_resume_gives_the_holder_no_more_time_than_it_has_itself(control: ReplicaControl) -> None:
    """Else the driver's undo would find it still at work."""
    control.quiesce()
    Holder.ends = [None, None]
    control.resume({"a": "t", "b": "t"}, "/holder", 2.0)

    assert len(Holder.asked_s) == 6
    assert all(0.0 < asked_s <= 2.0 for asked_s in Holder.asked_s)
    assert Holder.asked_s == sorted(Holder.asked_s, reverse=True)


def test_incomplete_model_that_cannot_be_unmapped_is_never_served(control: ReplicaControl) -> None:
    control.quiesce()
    half: Any = control.weights["b"].range
    half.unmapping_fails = True
    Holder.ends = [None, RuntimeError("the holder ended")]
    with pytest.raises(RuntimeError, match="cuMemUnmap failed"):
        control.resume({"a": "t", "b": "t"}, "/holder")
    with pytest.raises(RuntimeError, match="cuMemUnmap failed"):
        control.resume({"b": "t"}, "/holder")
    with pytest.raises(RuntimeError, match="the weights of b are not on the GPU"):
        control.digest()
    assert control._quiet

    half.unmapping_fails, Holder.ends = False, [None]
    control.resume({"b": "t"}, "/holder")
    assert (mapped(control), control._quiet, control.digest()) == ([True] * 3, False, "d.d")


def test_every_gpu_of_the_ranges_is_synchronized(control: ReplicaControl, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(sys.modules["torch"].cuda, "synchronize", asked.append)
    scratch: Any = control.scratch[0].range
    scratch.ordinal = 3
    control.quiesce()

    assert set(asked) == {0, 3}
