"""Limits of the agent's protocol, apart from its models so that a light client need not import those."""

from __future__ import annotations

LONGEST_LINE_BYTES = 1 << 20
"""A request or result is a few kilobytes; a line of a mebibyte is no message of ours."""
