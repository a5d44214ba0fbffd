"""Trying what would leave something behind: in a forked child, whose mounts and namespaces are gone with it."""

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
"""Where a child mounts what it tries; it hides what is there from nobody but itself."""


def in_child(what: str, attempt: Callable[[], Any], deadline_s: float) -> Any:
    """What `attempt` returns (anything that JSON can say), carried out in a child that never becomes a program.

    Raises:
        OSError: what the kernel refused to the child.
        DriverError: DEADLINE_EXCEEDED; the child and its children are dead by then.
    """

    def enter() -> None:
        try:
            said: dict[str, Any] = {"value": attempt()}
        except OSError as error:
            said = {"number": error.errno, "text": error.strerror or str(error)}
        os.write(1, json.dumps(said).encode())
        os._exit(0)

    said = json.loads(run([what], deadline_s=deadline_s, enter=enter).output)
    if "number" in said:
        raise OSError(said["number"], said["text"])
    return said["value"]


def own_mounts() -> None:
    """A mount namespace of one's own, whose mounts nobody else sees, with an empty tmpfs at `SCRATCH`, where one
    is then.

    Raises:
        OSError: as the kernel says.
    """
    unshare(KINDS["mnt"])
    mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", SCRATCH, "tmpfs")
    os.chdir(SCRATCH)  # whatever a program keeps where it is started is gone with it
