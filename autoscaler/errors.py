"""The autoscaler's errors, by who must act.

ForethawError
+-- InputError (input_error.py)  the user: a setting or a file cannot be used; the text names field, value and hint
+-- PortError                    the world: a port cannot answer now; nothing was changed, the pass is tried again
    +-- NotSyncedError                the cluster's cache has not seen its first full listing

A policy's plan that breaks its contract is no error: its target is held and the violation recorded
(`policies/contract.py`).
"""

from __future__ import annotations


class ForethawError(Exception):
    """Any error that Forethaw raises on purpose."""


class PortError(ForethawError):
    """A port cannot answer now; the pass ends and changes nothing."""


class NotSyncedError(PortError):
    """The cluster's cache is not complete yet, so that what it lacks may be there."""
