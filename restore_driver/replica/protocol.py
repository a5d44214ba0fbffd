"""The protocol of a replica's helper: one JSON object a line (`host/jsonlines.py`).

    {"op": "quiesce"}   no step runs any more; weights and scratch leave the GPU; caches are emptied, workers ended
    {"op": "resume"}    + {"leases": {model: token}, "holder_socket": path}: memory is mapped again, steps go on
    {"op": "digest"}    the digest of the weights on the GPU
    {"op": "state"}     whether the replica is quiesced, and which ranges are mapped

Each request carries the protocol's `version` (another one is refused by its name) and may carry `deadline_s`. It is
answered by {"result": {...}} or {"error": {"reason", "detail", "hint"}}.
"""

from __future__ import annotations

from restore_driver.errors import Reason
from restore_driver.host.jsonlines import Message
from restore_driver.host.messages import require_version

PROTOCOL_VERSION = 1
LONGEST_LINE_BYTES = 1 << 20
FAILED = {"quiesce": Reason.QUIESCE_FAILED, "resume": Reason.RESUME_FAILED, "digest": Reason.PROOF_FAILED}
"""Reason of a request's failure for which the replica has no other."""


def check_version(message: Message) -> None:
    """Refuse a request of another version.

    Raises:
        DriverError: REQUEST_INVALID naming both versions.
    """
    require_version(message, PROTOCOL_VERSION, "replica helper's")
