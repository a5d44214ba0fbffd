"""The name of the wire contract's version, importable without pydantic.

The light command line sends and prints it before anything heavy is imported; `version.py` validates it.
"""

from __future__ import annotations

API_VERSION = "forethaw.dev/v1alpha1"
