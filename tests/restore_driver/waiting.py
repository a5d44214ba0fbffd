"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 20.0


def eventually(true: Callable[[], Any], what: str) -> Any:
    """What it returns once that is true; gives up loudly."""
    ends_s = time.monotonic() + PATIENCE_S
    while not (value := true()):
        assert time.monotonic() < ends_s, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.01)
    return value
