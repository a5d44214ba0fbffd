"""Client of the helper within a PyTorch replica (`restore_driver.replica`), over its unix socket.

One JSON object a line each way: `{"op": "quiesce" | "resume" | "state" | "digest", ...}` is answered by
`{"ok": true, ...}` or `{"ok": false, "reason": ..., "detail": ...}`. The socket's path is the replica's: it is
resolved within the replica's root, links included, and connected to through a descriptor, so that it may be longer
than a socket's address.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from restore_driver.deadline import Deadline
from restore_driver.engines.hooks import HookDetails, Note, ProcessRoot, ResumeState
from restore_driver.errors import DriverError, Reason
from restore_driver.files.in_root import open_in_root
from restore_driver.wire.replica_spec import InProcessEngine

_LONGEST_ANSWER_BYTES = 1 << 20
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
            connection.sendall((json.dumps(message) + "\n").encode())
            answer = json.loads(_read_line(connection, deadline))
    except TimeoutError:
        raise DriverError(
            Reason.DEADLINE_EXCEEDED, f"the helper at {spec.socket} gave no whole answer within {deadline_s:.3g} s"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DriverError(reason, f"the helper at {spec.socket} can't be asked to {message['op']}: {error}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise DriverError(reason, f"the helper at {spec.socket} answered {str(answer)[:200]}")
    if not answer.pop("ok"):
        said = answer.get("detail") or answer.get("reason") or "no reason given"
        raise DriverError(reason, f"the helper at {spec.socket} can't {message['op']}: {said}")
    return dict(answer)


def _connect(spec: InProcessEngine, process: ProcessRoot, deadline: Deadline) -> socket.socket:
    root_fd = os.open(process.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root_fd, spec.socket, os.O_PATH)
    finally:
        os.close(root_fd)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(deadline.left_s())
        connection.connect(f"/proc/self/fd/{fd}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(fd)
    return connection


def _read_line(connection: socket.socket, deadline: Deadline) -> bytes:
    answer = bytearray()
    while not answer.endswith(b"\n"):
        connection.settimeout(deadline.left_s())
        more = connection.recv(1 << 16)
        if not more:
            raise ValueError("it closed the connection without an answer")
        answer += more
        if len(answer) > _LONGEST_ANSWER_BYTES:
            raise ValueError(f"its answer is longer than {_LONGEST_ANSWER_BYTES:,} bytes")
    return bytes(answer)
