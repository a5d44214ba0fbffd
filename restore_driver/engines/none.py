"""Replicas that need no rest: they may be stopped anywhere, and go on where they were."""

from __future__ import annotations

from restore_driver.engines.target import Facts, Target
from restore_driver.wire.replica_spec import NoEngine


def quiesce(spec: NoEngine, target: Target, deadline_s: float) -> Facts:
    """Nothing to do."""
    return {}


def resume(spec: NoEngine, target: Target, deadline_s: float) -> Facts:
    """Nothing to do."""
    return {}
