"""Run attempts that mount or unshare in a forked child, whose mounts and namespaces end with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from restore_driver.host.mounts import MS_PRIVATE, MS_REC, mount
from restore_driver.host.namespaces import KINDS, unshare
from restore_driver.host.process import run

SCRATCH = Path("/run")
"""Mount point of a child's attempts; its own mount namespace keeps the mount from other processes."""


def in_child(what: str, attempt: Callable[[], Any], deadline_s: float) -> Any:
    """Call `attempt` in a forked child and return its result, which must be JSON; `what` names it in errors.

    Raises:
        OSError: the error that `attempt` raised.
        DriverError: DEADLINE_EXCEEDED; the child and its children are dead by then.
    """

    def enter() -> None:
        try:
            outcome: dict[str, Any] = {"value": attempt()}
        except OSError as error:
            outcome = {"number": error.errno, "text": error.strerror or str(error)}
        os.write(1, json.dumps(outcome).encode())
        os._exit(0)

    outcome = json.loads(run([what], deadline_s=deadline_s, enter=enter).output)
    if "number" in outcome:
        raise OSError(outcome["number"], outcome["text"])
    return outcome["value"]


def own_mounts() -> None:
    """Enter a new private mount namespace with an empty tmpfs at `SCRATCH`, the new working directory.

    Raises:
        OSError: the kernel refuses the namespace or the mount.
    """
    unshare(KINDS["mnt"])
    mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", SCRATCH, "tmpfs")
    os.chdir(SCRATCH)  # files that a program writes to its working directory end with it
