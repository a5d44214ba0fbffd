"""Bringing an engine to rest and waking it: one function each way, told apart by the spec's kind.

A hook may be repeated: resting what rests, or waking what is awake, does no harm, since an undo wakes an engine that
perhaps never rested. Where an engine can't be asked (SGLang), the caller keeps what `note` says before it happens.
"""

from __future__ import annotations

from typing import assert_never

from restore_driver.engines import exec as exec_hooks
from restore_driver.engines import http, inprocess, none, sglang, vllm
from restore_driver.engines.target import Facts, Note, Target, Waking, keep_nothing
from restore_driver.wire.replica_spec import (
    EngineSpec,
    ExecEngine,
    HttpEngine,
    InProcessEngine,
    NoEngine,
    SglangEngine,
    VllmEngine,
)

__all__ = ["Facts", "Note", "Target", "Waking", "quiesce", "resume"]

_NOTHING_BESIDES = Waking()


def quiesce(spec: EngineSpec, target: Target, deadline_s: float, note: Note = keep_nothing) -> Facts:
    """Brings the engine to rest.

    Raises:
        DriverError: QUIESCE_FAILED, DEADLINE_EXCEEDED or REPLICA_LOST.
    """
    match spec:
        case NoEngine():
            facts = none.quiesce(spec, target, deadline_s)
        case VllmEngine():
            facts = vllm.quiesce(spec, target, deadline_s)
        case SglangEngine():
            facts = sglang.quiesce(spec, target, deadline_s, note)
        case HttpEngine():
            facts = http.quiesce(spec, target, deadline_s)
        case ExecEngine():
            facts = exec_hooks.quiesce(spec, target, deadline_s)
        case InProcessEngine():
            facts = inprocess.quiesce(spec, target, deadline_s)
        case _:
            assert_never(spec)
    return {"engine": spec.kind, **facts}


def resume(
    spec: EngineSpec, target: Target, deadline_s: float, waking: Waking = _NOTHING_BESIDES, note: Note = keep_nothing
) -> Facts:
    """Wakes the engine.

    Raises:
        DriverError: RESUME_FAILED, DEADLINE_EXCEEDED or REPLICA_LOST.
    """
    match spec:
        case NoEngine():
            facts = none.resume(spec, target, deadline_s)
        case VllmEngine():
            facts = vllm.resume(spec, target, deadline_s)
        case SglangEngine():
            facts = sglang.resume(spec, target, deadline_s, waking, note)
        case HttpEngine():
            facts = http.resume(spec, target, deadline_s)
        case ExecEngine():
            facts = exec_hooks.resume(spec, target, deadline_s)
        case InProcessEngine():
            facts = inprocess.resume(spec, target, deadline_s, waking)
        case _:
            assert_never(spec)
    return {"engine": spec.kind, **facts}
