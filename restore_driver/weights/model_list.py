"""The file that lists a holder's models, so that a holder that starts after another's death can read them again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from restore_driver.host.atomic import write_atomically
from restore_driver.host.jsonlines import Message
from restore_driver.host.trusted import require_trusted
from restore_driver.weights.store import HeldModel


def write_models(path: Path, models: Iterable[HeldModel]) -> None:
    """Replace the list, durably.

    Raises:
        OSError: it could not be written; the old list stands.
    """
    write_atomically(path, json.dumps([_described(model) for model in models]).encode())


def read_models(path: Path) -> Iterator[Message]:
    """Yield the fields of each model as a preload has them.

    Raises:
        DriverError: NOT_TRUSTED for a file that others than root could have written.
        ValueError: the file was cut off or edited; the models must be preloaded again.
    """
    require_trusted(path, owner=os.geteuid())
    try:
        content = json.loads(path.read_text())
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, list):
        raise ValueError(f"{content!r:.100} is no list")  # noqa: TRY004 - the file is at fault
    for about in content:
        if not isinstance(about, dict):
            raise ValueError(f"{about!r:.100} is no model")  # noqa: TRY004 - the same
        yield about


def _described(model: HeldModel) -> Message:
    return {
        "model": model.name,
        "files": [str(file) for file in model.files],
        "total_bytes": model.layout.total_bytes,
        "offsets_bytes": dict(model.layout.offsets_bytes),
    }
