"""The autoscaler's errors, by who must act.

ForethawError
+-- ConfigError      the user: a setting is wrong; the text names field, value and hint
+-- PlanError        us: a policy returned a plan that breaks its own contract
"""

from __future__ import annotations


class ForethawError(Exception):
    """Any error that Forethaw raises on purpose."""


class ConfigError(ForethawError):
    """A setting that cannot be used."""


class PlanError(ForethawError):
    """A plan over budget, below zero or out of a target's bounds: refused before anything acts."""
