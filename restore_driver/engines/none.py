"""Replicas without an engine to quiesce: they may be stopped anywhere, and continue where they were."""

from __future__ import annotations

from restore_driver.engines.hooks import HookDetails, Note, ProcessRoot, ResumeState


class NoHooks:
    """Does nothing."""

    def quiesce(self, process: ProcessRoot, deadline_s: float, note: Note) -> HookDetails:
        """Return no details."""
        return {}

    def resume(self, process: ProcessRoot, deadline_s: float, state: ResumeState, note: Note) -> HookDetails:
        """Return no details."""
        return {}
