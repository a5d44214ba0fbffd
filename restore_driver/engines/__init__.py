"""Quiesce and resume a replica's engine; one adapter per engine, selected by the kind of its spec."""

from __future__ import annotations

from typing import assert_never

from restore_driver.engines.exec import ExecHooks
from restore_driver.engines.hooks import (
    NOTHING_LOADED,
    Engine,
    EngineMemory,
    HookDetails,
    Note,
    ProcessRoot,
    ResumeState,
    keep_nothing,
)
from restore_driver.engines.http import HttpHooks
from restore_driver.engines.inprocess import InProcessHooks
from restore_driver.engines.none import NoHooks
from restore_driver.engines.sglang import SglangHooks
from restore_driver.engines.vllm import VllmHooks
from restore_driver.wire.replica_spec import (
    EngineSpec,
    ExecEngine,
    HttpEngine,
    InProcessEngine,
    NoEngine,
    SglangEngine,
    VllmEngine,
)

__all__ = ["Engine", "EngineMemory", "HookDetails", "Note", "ProcessRoot", "ResumeState", "quiesce", "resume"]


def engine_of(spec: EngineSpec) -> Engine:
    """Return the adapter for a spec."""
    match spec:
        case NoEngine():
            return NoHooks()
        case VllmEngine():
            return VllmHooks(spec)
        case SglangEngine():
            return SglangHooks(spec)
        case HttpEngine():
            return HttpHooks(spec)
        case ExecEngine():
            return ExecHooks(spec)
        case InProcessEngine():
            return InProcessHooks(spec)
        case _:
            assert_never(spec)


def quiesce(spec: EngineSpec, process: ProcessRoot, deadline_s: float, note: Note = keep_nothing) -> HookDetails:
    """Quiesce the engine.

    Raises:
        DriverError: QUIESCE_FAILED, DEADLINE_EXCEEDED or REPLICA_LOST.
    """
    return {"engine": spec.kind, **engine_of(spec).quiesce(process, deadline_s, note)}


def resume(
    spec: EngineSpec,
    process: ProcessRoot,
    deadline_s: float,
    state: ResumeState = NOTHING_LOADED,
    note: Note = keep_nothing,
) -> HookDetails:
    """Resume the engine.

    Raises:
        DriverError: RESUME_FAILED, DEADLINE_EXCEEDED or REPLICA_LOST.
    """
    return {"engine": spec.kind, **engine_of(spec).resume(process, deadline_s, state, note)}
