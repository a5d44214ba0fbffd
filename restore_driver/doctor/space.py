"""How much room there is, and from when on it is worth a word."""

from __future__ import annotations

import os
from pathlib import Path

LEAST_BYTES = 1 << 30
"""A small replica's image; a checkpoint counts what it really needs before it begins."""


def nearest(path: Path) -> Path:
    """The path, or the first of its parents that exists."""
    whole = Path(os.path.abspath(path))
    return next(step for step in (whole, *whole.parents) if os.path.exists(step))
