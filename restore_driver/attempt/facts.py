"""The journaled facts of an attempt: all that an undo may know, in this driver or in the next one after a `kill -9`.

Every value is JSON. A key is there once the phase that sets it has noted it, which it does before it acts.
"""

from __future__ import annotations

from typing import Any, TypedDict


class AttemptFacts(TypedDict, total=False):
    """Facts by name; PIDs are those of the driver's pid namespace unless they say otherwise."""

    # checkpoint and park: the live replica
    pid: int
    start_ticks: int
    replica: dict[str, Any]
    """The `ReplicaSpec`."""
    proof: dict[str, Any]
    """The `ProofRecord`."""
    quiesced: bool
    """The engine may have been quiesced."""
    released: bool
    """The engine was asked to release its GPU memory."""
    memory_back: bool
    """The engine has its GPU memory again, without its content."""
    cuda_pids: list[int]
    draft: str
    """Path of the draft that becomes the artifact."""
    stopped: bool
    """The tree may have been stopped by CRIU."""
    went_on: bool
    """The replica was continued and runs as before: nothing of it is rolled back after that."""

    # restore and unpark: the woken replica
    holder: str
    """Socket of the weights holder; empty for none."""
    leases: dict[str, str]
    """Model -> token of its lease."""
    placeholder_pid: int
    placeholder_ticks: int
    namespace: int
    """Inode of the placeholder's pid namespace."""
    placed: dict[str, bool]
    """Path that the snapshot brings -> True if something stood there before."""
    place_key: str
    present: dict[str, int]
    """Processes of the placeholder before CRIU: PID within its namespace -> start in ticks."""
    cuda_touched: bool
    """A CUDA restore may have begun."""

    reason: str
    """Why the attempt failed; set before its undos run."""
