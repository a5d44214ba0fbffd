"""The free space below which a check warns, and the directory whose free space counts."""

from __future__ import annotations

from pathlib import Path

LEAST_BYTES = 1 << 30
"""About a small replica's image; a checkpoint checks the space that it needs before it begins."""


def nearest(path: Path) -> Path:
    """Return the absolute path, or the first of its parents that exists."""
    whole = path.absolute()
    return next(step for step in (whole, *whole.parents) if step.exists())
