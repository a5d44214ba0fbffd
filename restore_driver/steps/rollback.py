"""The undos: each rolls one phase back from the journaled facts alone, in the driver that failed or in the next one.

All are idempotent, and hold for phases that never quite began.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from restore_driver.artifact.read_lock import exclusive_lock
from restore_driver.attempt.facts import AttemptFacts
from restore_driver.attempt.parked_records import forget_record
from restore_driver.attempt.phases import Undo
from restore_driver.attempt.undo import UndoStep
from restore_driver.cuda import bring_back
from restore_driver.deadline import Deadline
from restore_driver.engines import EngineMemory
from restore_driver.errors import DriverError, Reason
from restore_driver.files import place
from restore_driver.host import proc
from restore_driver.host.kill_tree import end_processes
from restore_driver.host.sigcont import continue_tree
from restore_driver.steps.wake import wake
from restore_driver.toolset import Toolset
from restore_driver.weights.client import HolderClient
from restore_driver.wire.replica_spec import ReplicaSpec


def make_undos(tools: Toolset) -> Mapping[Undo, UndoStep]:
    """Return every undo by its name in `attempt/phases.py`."""
    undoing = _Undos(tools)
    return {
        Undo.RESUME_ENGINE: undoing.resume_engine,
        Undo.RESTORE_CUDA: undoing.restore_cuda,
        Undo.CONTINUE_TREE: undoing.continue_tree,
        Undo.DROP_DRAFT: undoing.drop_draft,
        Undo.RELEASE_WEIGHTS: undoing.release_weights,
        Undo.TAKE_FILES_BACK: undoing.take_files_back,
        Undo.KILL_RESTORED: undoing.kill_restored,
        Undo.KILL_UNPARKED: undoing.kill_unparked,
        Undo.FORGET_PARKED: undoing.forget_parked,
    }


class _Undos:
    def __init__(self, tools: Toolset) -> None:
        self.tools = tools

    def resume_engine(self, facts: AttemptFacts, deadline: Deadline) -> None:
        if not facts.get("quiesced") or facts.get("went_on"):
            return
        wake(
            self.tools,
            ReplicaSpec.model_validate(facts["replica"]),
            _still_the_same(facts),
            cuda_pids=(),  # `restore_cuda` has run before: its phase comes after the quiesce
            holder=Path(facts["holder"]) if facts.get("holder") else None,
            deadline=deadline,
            note=lambda memory: _note(facts, memory),
            released=facts.get("released", False),
            memory_back=facts.get("memory_back", False),
        )

    def restore_cuda(self, facts: AttemptFacts, deadline: Deadline) -> None:
        if facts.get("went_on") or not facts.get("cuda_pids"):
            return
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing, "fix that, then: forethaw recover")
        alive = [pid for pid in facts.get("cuda_pids", ()) if proc.is_alive(pid)]
        failed = bring_back(self.tools.cuda, alive, deadline.left_s())
        if failed:
            raise failed[0]

    def continue_tree(self, facts: AttemptFacts, deadline: Deadline) -> None:
        if facts.get("went_on"):
            return
        if facts.get("stopped"):
            continue_tree(_still_the_same(facts), facts["start_ticks"])

    def drop_draft(self, facts: AttemptFacts, deadline: Deadline) -> None:
        if "draft" in facts:  # once it was published, an old artifact may stand under this name, held by a reader
            with suppress(DriverError), exclusive_lock(Path(facts["draft"])):
                shutil.rmtree(facts["draft"], ignore_errors=True)

    def release_weights(self, facts: AttemptFacts, deadline: Deadline) -> None:
        leases = facts.get("leases", {})
        if not leases:
            return
        client = HolderClient(Path(facts["holder"]))
        try:
            for token in leases.values():
                client.release(token, deadline.left_s())
        finally:
            client.close()

    def take_files_back(self, facts: AttemptFacts, deadline: Deadline) -> None:
        if "placed" not in facts:
            return
        with _placeholder_root(facts) as root:
            if root is not None:
                place.roll_back(facts["placed"], root, facts["place_key"])

    def kill_restored(self, facts: AttemptFacts, deadline: Deadline) -> None:
        """End all processes of the placeholder that were not there before CRIU: the replica and CRIU's own remains."""
        with _placeholder_root(facts) as root:
            if root is None or "present" not in facts:
                return  # all of it ended with its first process; or nothing was started yet
            end_processes((), deadline, lambda: _strangers(facts))

    def forget_parked(self, facts: AttemptFacts, deadline: Deadline) -> None:
        """Remove the record of a replica that is about to be woken: the next unpark could end it while it serves."""
        forget_record(self.tools.state, facts["pid"])

    def kill_unparked(self, facts: AttemptFacts, deadline: Deadline) -> None:
        """End a process whose CUDA restore failed: that is final, it is neither parked nor awake, and holds memory.

        Before the CUDA restore began it is still parked. Its state does not help after that: a restore whose caller was
        killed continues in the process, which is `checkpointed` until it is suddenly back on the GPU.
        """
        if not facts.get("cuda_touched"):
            return
        if proc.is_same(facts["pid"], facts["start_ticks"]):
            end_processes((facts["pid"],), deadline)
        forget_record(self.tools.state, facts["pid"])


def _note(facts: AttemptFacts, memory: EngineMemory) -> None:
    if "released" in memory:
        facts["released"] = memory["released"]
    if "memory_back" in memory:
        facts["memory_back"] = memory["memory_back"]


def _strangers(facts: AttemptFacts) -> list[int]:
    """Return members of the placeholder's pid namespace that were not there before CRIU."""
    found = []
    for inside, pid in proc.members(facts["namespace"]).items():
        with suppress(DriverError):
            if facts["present"].get(str(inside)) != proc.start_ticks(pid):
                found.append(pid)
    return found


@contextmanager
def _placeholder_root(facts: AttemptFacts) -> Iterator[Path | None]:
    """Open the placeholder's root; yield None when it is gone and another process has its PID, or its namespace."""
    pid, ticks = facts.get("placeholder_pid", 0), facts.get("placeholder_ticks", -1)
    try:
        fd = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:  # checked after the opening: what is open stays the placeholder's, even when its PID is reused
        ours = proc.is_same(pid, ticks) and proc.namespace_id(pid, "pid") == facts["namespace"]
        yield Path(f"/proc/self/fd/{fd}") if ours else None
    finally:
        os.close(fd)


def _still_the_same(facts: AttemptFacts) -> int:
    if not proc.is_same(facts["pid"], facts["start_ticks"]):
        raise DriverError(Reason.REPLICA_LOST, f"process {facts['pid']} did not survive", "replace the replica")
    return int(facts["pid"])
