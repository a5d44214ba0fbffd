"""Modes: how much of its plan a target lets Forethaw carry out. Policies know nothing of them.

What a mode leaves to others is known before GPUs are assigned: a start that will not happen takes none from a target
whose start will.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from policies.actions import SCALING, Action, ActionKind
from policies.keys import TargetKey
from policies.types import PARKED, DecisionInput, Plan


class Mode(StrEnum):
    """Who scales a target."""

    ADVISE = "Advise"
    """Forethaw does not act: the plan is published, and replicas, GPUs and snapshots are left alone."""
    SCALE = "Scale"
    """Forethaw scales the target itself."""
    KEDA = "KEDA"
    """KEDA and its HPA set the count from the published plan; warm replicas and snapshots are kept by Forethaw."""


def divided(plan: Plan, modes: Mapping[TargetKey, Mode], given: DecisionInput) -> tuple[Plan, Plan]:
    """Return the plan of the targets that may act, and that of all targets as if they might.

    They are one where no target, or every target, is advised only. A target that is scaled by KEDA is held at the
    count that it has; one without an entry in `modes` is scaled by Forethaw.
    """
    targets = {
        key: replace(t, active=given.observed[key].current) if modes.get(key) is Mode.KEDA else t
        for key, t in plan.targets.items()
    }
    everyone = replace(plan, targets=targets)
    acting = {key: t for key, t in targets.items() if modes.get(key) is not Mode.ADVISE}
    return replace(plan, targets=acting) if acting else everyone, everyone


def permitted(actions: tuple[Action, ...], modes: Mapping[TargetKey, Mode]) -> tuple[Action, ...]:
    """Return the actions that their targets' modes let through, in order.

    What concerns no target of the pool (GPUs, nodes, the snapshots that a target left behind) passes while any target
    of the pool may act.
    """
    anyone = any(mode is not Mode.ADVISE for mode in modes.values())

    def passes(action: Action) -> bool:
        mode = modes.get(action.target) if action.target is not None else None
        return anyone if mode is None else _permits(mode, action)

    return tuple(filter(passes, actions))


def _permits(mode: Mode, action: Action) -> bool:
    if mode is Mode.ADVISE:
        return False
    if mode is Mode.KEDA and action.kind in SCALING:
        # The count is the HPA's; a replica that starts in order to park, or is parked, is not part of it.
        return action.kind in (ActionKind.START, ActionKind.STOP) and action.goal == PARKED
    return True
