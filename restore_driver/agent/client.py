"""Client of the agent's socket. Light on purpose: it is imported by every program that triggers a restore."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restore_driver.agent.limits import LONGEST_LINE_BYTES
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Message
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import raise_error
from restore_driver.host.trusted import require_trusted
from restore_driver.host.unix_sockets import connect, is_served

if TYPE_CHECKING:  # pydantic takes longer to import than a request takes to send
    from restore_driver.attempt.phases import Observer
    from restore_driver.wire.requests import Request
    from restore_driver.wire.result import Result


def ask(path: Path, request: Request, deadline_s: float, observe: Observer = lambda *_: None) -> Result:
    """Have the agent carry out a request, and return its result; failures of the attempt are in the result.

    Args:
        path: the agent's socket.
        request: any of `wire.requests`.
        deadline_s: seconds for all of it; the attempt goes on after.
        observe: called with each event and phase while the attempt runs.

    Raises:
        DriverError: REQUEST_INVALID or NOT_TRUSTED as the agent refused it; NOT_TRUSTED for a socket that is not
            root's; DEADLINE_EXCEEDED; DRIVER_DIED when no agent listens, or it ends before its result.
    """
    from restore_driver.wire.result import Result

    return Result.model_validate(converse(path, request.model_dump(mode="json"), deadline_s, observe))


def serves(path: Path) -> bool:
    """Return True when an agent listens at a path, however busy; the socket of a killed agent is still a file."""
    return is_served(path)


def status(path: Path, deadline_s: float = 5.0) -> dict[str, Any]:
    """Return the agent's status: `pid`, `api_version`, `criu`, `cuda`, `cuda_missing`, `gpus` and running `attempts`.

    Raises:
        DriverError: as `ask`.
    """
    from restore_driver.agent.protocol import StatusRequest

    return converse(path, StatusRequest().model_dump(mode="json"), deadline_s, lambda *_: None)


def converse(path: Path, message: Message, deadline_s: float, observe: Observer) -> dict[str, Any]:
    """Send one message and return the result that ends the conversation, as JSON.

    Raises:
        DriverError: as `ask` does.
    """
    require_trusted(path, owner=os.geteuid())
    deadline = Deadline.after(f"the agent at {path} ({message['do']})", deadline_s)
    try:
        with connect(path, deadline.left_s()) as connection:
            stream = MessageStream(connection, LONGEST_LINE_BYTES)
            with suppress(BrokenPipeError):  # it may have refused this client already, and says why
                stream.send(message)
            while (answer := stream.receive(deadline.left_s())) is not None:
                raise_error(answer)
                if "result" in answer:
                    result: dict[str, Any] = answer["result"]
                    return result
                observe(str(answer.get("event")), str(answer.get("phase")))
    except TimeoutError:
        raise DriverError(
            Reason.DEADLINE_EXCEEDED, f"the agent at {path} did not answer within {deadline_s:.3g} s"
        ) from None
    except OSError as error:
        raise DriverError(Reason.DRIVER_DIED, f"the agent at {path} cannot be asked: {error}") from error
    raise DriverError(Reason.DRIVER_DIED, f"the agent at {path} ended before its result", "see its log; start it again")
