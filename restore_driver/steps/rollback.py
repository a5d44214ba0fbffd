"""What takes a phase back, each from the journal's facts alone: the same in the driver that failed and in the next.

All are idempotent, and hold for phases that never quite began.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from restore_driver.artifact.read_lock import alone
from restore_driver.attempt.journal import Facts
from restore_driver.attempt.phases import Undo
from restore_driver.attempt.walk import UndoStep
from restore_driver.cuda import bring_back
from restore_driver.deadline import Deadline
from restore_driver.engines import Target
from restore_driver.errors import DriverError, Reason
from restore_driver.files import place
from restore_driver.host import proc
from restore_driver.host.kill_tree import end_processes
from restore_driver.host.sigcont import continue_tree
from restore_driver.steps.records import forget_record
from restore_driver.steps.weights import begin_loading, wake
from restore_driver.tools import Tools
from restore_driver.weights.client import HolderClient
from restore_driver.wire.replica_spec import ReplicaSpec


def make_undos(tools: Tools) -> Mapping[Undo, UndoStep]:
    """Every undo by its name in the table."""
    undoing = _Undoing(tools)
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


class _Undoing:
    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    def resume_engine(self, facts: Facts, deadline: Deadline) -> None:
        if "quiesced" not in facts or facts.get("went_on"):
            return
        pid = _still_the_same(facts)
        replica = ReplicaSpec.model_validate(facts["replica"])
        loading = begin_loading(replica, Path(facts["holder"]) if facts.get("holder") else None, deadline)
        try:
            target = Target(pid, Path(f"/proc/{pid}/root"))
            wake(
                replica,
                target,
                loading,
                deadline,
                note=facts.update,
                released=facts.get("released", False),
                memory_back=facts.get("memory_back", False),
            )
        finally:
            loading.close()

    def restore_cuda(self, facts: Facts, deadline: Deadline) -> None:
        if facts.get("went_on") or not facts.get("cuda_pids"):
            return
        if self.tools.cuda is None:
            raise DriverError(Reason.CUDA_MISSING, self.tools.cuda_missing, "fix that, then: forethaw recover")
        alive = [pid for pid in facts.get("cuda_pids", ()) if proc.is_alive(pid)]
        failed = bring_back(self.tools.cuda, alive, deadline.left_s())
        if failed:
            raise failed[0]

    def continue_tree(self, facts: Facts, deadline: Deadline) -> None:
        if facts.get("went_on"):
            return
        if facts.get("stopped"):
            continue_tree(_still_the_same(facts), facts["start_ticks"])

    def drop_draft(self, facts: Facts, deadline: Deadline) -> None:
        if "draft" in facts:  # once it was published, an old artifact may stand under this name, held by a reader
            with suppress(DriverError), alone(Path(facts["draft"])):
                shutil.rmtree(facts["draft"], ignore_errors=True)

    def release_weights(self, facts: Facts, deadline: Deadline) -> None:
        leases = facts.get("leases", {})
        if not leases:
            return
        client = HolderClient(Path(facts["holder"]))
        try:
            for token in leases.values():
                client.release(token, deadline.left_s())
        finally:
            client.close()

    def take_files_back(self, facts: Facts, deadline: Deadline) -> None:
        if "placed" not in facts:
            return
        with _placeholder_root(facts) as root:
            if root is not None:
                place.take_back(facts["placed"], root, facts["place_key"])

    def kill_restored(self, facts: Facts, deadline: Deadline) -> None:
        """All in the placeholder's pid namespace that was not there before CRIU: replica and CRIU's own remains."""
        with _placeholder_root(facts) as root:
            if root is None or "present" not in facts:
                return  # with its first process all of it ended; or nothing was started yet
            end_processes((), deadline, lambda: _strangers(facts))

    def forget_parked(self, facts: Facts, deadline: Deadline) -> None:
        """It is about to be woken; a record that stayed would have the next unpark end a serving replica."""
        forget_record(self.tools.state, facts["pid"])

    def kill_unparked(self, facts: Facts, deadline: Deadline) -> None:
        """A failed CUDA restore is final: the process is neither parked nor awake, and holds memory.

        Before CUDA was asked it is parked as ever. What its state says after that is no help: a restore whose asker was
        killed goes on in the process, which is `checkpointed` until it is suddenly back on the card.
        """
        if not facts.get("cuda_touched"):
            return
        if proc.is_same(facts["pid"], facts["start_ticks"]):
            end_processes((facts["pid"],), deadline)
        forget_record(self.tools.state, facts["pid"])


def _strangers(facts: Facts) -> list[int]:
    """Members of the placeholder's pid namespace that were not there before CRIU."""
    found = []
    for inside, pid in proc.members(facts["namespace"]).items():
        with suppress(DriverError):
            if facts["present"].get(str(inside)) != proc.start_ticks(pid):
                found.append(pid)
    return found


@contextmanager
def _placeholder_root(facts: Facts) -> Iterator[Path | None]:
    """The placeholder's root; None when it is gone, though its PID, or its namespace's number, may be another's now."""
    pid, ticks = facts.get("placeholder_pid", 0), facts.get("placeholder_ticks", -1)
    try:
        fd = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:  # looked at after the opening: what is open stays the placeholder's, whoever has its PID later
        ours = proc.is_same(pid, ticks) and proc.namespace_id(pid, "pid") == facts["namespace"]
        yield Path(f"/proc/self/fd/{fd}") if ours else None
    finally:
        os.close(fd)


def _still_the_same(facts: Facts) -> int:
    if not proc.is_same(facts["pid"], facts["start_ticks"]):
        raise DriverError(Reason.REPLICA_LOST, f"process {facts['pid']} did not survive", "replace the replica")
    return int(facts["pid"])
