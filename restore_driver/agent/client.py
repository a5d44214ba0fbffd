"""The caller's end of the agent's socket. Light on purpose: it is imported by whatever triggers a restore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restore_driver.agent.protocol import connect, lines, send
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted

if TYPE_CHECKING:  # pydantic takes longer to import than a request takes to send
    from restore_driver.attempt.phases import Observer
    from restore_driver.wire.requests import Request
    from restore_driver.wire.result import Result


def ask(path: Path, request: Request, deadline_s: float, observe: Observer = lambda *_: None) -> Result:
    """Has the agent carry out a request.

    Raises:
        DriverError: what the agent refused as no request; NOT_TRUSTED for a socket that is not root's;
            DRIVER_DIED when the agent ends before its result.
    """
    from restore_driver.wire.result import Result

    return Result.model_validate(converse(path, request.model_dump(mode="json"), deadline_s, observe))


def serves(path: Path) -> bool:
    """Whether anybody listens there; the socket of an agent that was killed is still a file."""
    try:
        connect(path, 1.0).close()
    except OSError:
        return False
    return True


def status(path: Path, deadline_s: float = 5.0) -> dict[str, Any]:
    """What the agent says of itself."""
    return converse(path, {"do": "status"}, deadline_s, lambda *_: None)


def converse(path: Path, message: dict[str, Any], deadline_s: float, observe: Observer) -> dict[str, Any]:
    """Send one message and return the result that ends the conversation, as JSON.

    Raises:
        DriverError: as `ask` does.
    """
    require_trusted(path, owner=os.geteuid())
    try:
        with connect(path, deadline_s) as connection:
            send(connection, message)
            for line in lines(connection):
                if "event" in line:
                    observe(line["event"], line["phase"])
                elif "error" in line:
                    error = line["error"]
                    raise DriverError(Reason(error["reason"]), error["detail"], error["hint"])
                else:
                    result: dict[str, Any] = line["result"]
                    return result
    except OSError as error:
        raise DriverError(Reason.DRIVER_DIED, f"the agent at {path} can't be asked: {error}") from error
    raise DriverError(Reason.DRIVER_DIED, f"the agent at {path} ended before its result", "see its log; start it again")
