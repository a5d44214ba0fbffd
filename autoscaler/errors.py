"""The autoscaler's errors, by who must act.

ForethawError
+-- PlanError        us: a policy returned a plan that breaks its own contract
"""

from __future__ import annotations


class ForethawError(Exception):
    """Any error that Forethaw raises on purpose."""


class PlanError(ForethawError):
    """A plan over budget, below zero or out of a target's bounds: refused before anything acts."""
