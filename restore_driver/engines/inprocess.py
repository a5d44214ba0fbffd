"""Client of the helper within a PyTorch replica (`restore_driver.replica`), over its unix socket.

`replica/protocol.py` is what travels. The socket's path is the replica's: it is resolved within the replica's root,
links included, and connected to through a descriptor, so that it may be longer than a socket's address.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

from restore_driver.deadline import Deadline
from restore_driver.engines.hooks import HookDetails, Note, ProcessRoot, ResumeState
from restore_driver.errors import DriverError, Reason
from restore_driver.files.in_root import open_in_root
from restore_driver.host.jsonlines import Message
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.messages import VERSION, raise_error
from restore_driver.host.unix_sockets import connect
from restore_driver.replica.protocol import LONGEST_LINE_BYTES, PROTOCOL_VERSION
from restore_driver.wire.replica_spec import InProcessEngine

_SHARE = 0.9
"""Share of the deadline that the helper gets: it should fail first, and leave the replica as it was."""


@dataclass(frozen=True)
class InProcessHooks:
    """The helper within the replica's process as hooks."""

    spec: InProcessEngine

    def quiesce(self, process: ProcessRoot, deadline_s: float, note: Note) -> HookDetails:
        """Let the running step end, release weights and KV, empty caches, end workers."""
        message = {"op": "quiesce", "deadline_s": deadline_s * _SHARE}
        return ask(self.spec, message, process, deadline_s, Reason.QUIESCE_FAILED)

    def resume(self, process: ProcessRoot, deadline_s: float, state: ResumeState, note: Note) -> HookDetails:
        """Map weights and KV again at their old addresses."""
        message: dict[str, Any] = {"op": "resume", "deadline_s": deadline_s * _SHARE}
        if state.leases:
            message |= {"leases": dict(state.leases), "holder_socket": self.spec.holder}
        return ask(self.spec, message, process, deadline_s, Reason.RESUME_FAILED)


def digest(spec: InProcessEngine, process: ProcessRoot, deadline_s: float) -> str:
    """Return the digest of the weights as they are on the GPU now.

    Raises:
        DriverError: PROOF_FAILED, DEADLINE_EXCEEDED.
    """
    answer = ask(spec, {"op": "digest", "deadline_s": deadline_s * _SHARE}, process, deadline_s, Reason.PROOF_FAILED)
    found = answer.get("digest")
    if not isinstance(found, str) or not found:
        raise DriverError(Reason.PROOF_FAILED, f"the helper at {spec.socket} gave no digest: {answer}")
    return found


def ask(
    spec: InProcessEngine, message: dict[str, Any], process: ProcessRoot, deadline_s: float, reason: Reason
) -> HookDetails:
    """Make one request to the helper, and return its answer without `ok`.

    Raises:
        DriverError: `reason` with the helper's detail; DEADLINE_EXCEEDED.
    """
    deadline = Deadline.after(f"the replica's helper ({message['op']})", deadline_s)
    try:
        with _connect(spec, process, deadline) as connection:
            stream = MessageStream(connection, LONGEST_LINE_BYTES)
            stream.send({**message, VERSION: PROTOCOL_VERSION})
            answer = stream.receive(deadline.left_s())
    except TimeoutError:
        raise DriverError(
            Reason.DEADLINE_EXCEEDED, f"the helper at {spec.socket} gave no whole answer within {deadline_s:.3g} s"
        ) from None
    except OSError as error:
        raise DriverError(reason, f"the helper at {spec.socket} cannot be asked to {message['op']}: {error}") from error
    except DriverError as error:
        if error.reason is not Reason.REQUEST_INVALID:
            raise
        raise DriverError(reason, f"the helper at {spec.socket} gave no answer: {error.detail}") from error
    return _result(spec, str(message["op"]), answer, reason)


def _result(spec: InProcessEngine, operation: str, answer: Message | None, reason: Reason) -> HookDetails:
    if answer is None:
        raise DriverError(reason, f"the helper at {spec.socket} closed the connection without an answer")
    try:
        raise_error(answer)
    except DriverError as error:
        raise DriverError(
            reason, f"the helper at {spec.socket} cannot {operation}: {error.detail}", error.hint
        ) from error
    result = answer.get("result")
    if not isinstance(result, dict):
        raise DriverError(reason, f"the helper at {spec.socket} answered {str(answer)[:200]}")
    return result


def _connect(spec: InProcessEngine, process: ProcessRoot, deadline: Deadline) -> socket.socket:
    root_fd = os.open(process.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root_fd, spec.socket, os.O_PATH)
    finally:
        os.close(root_fd)
    try:
        return connect(f"/proc/self/fd/{fd}", deadline.left_s())
    finally:
        os.close(fd)
