"""The second half of a checkpoint: CRIU's dump, files, the artifact; the replica is continued, or ended."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from restore_driver.artifact.manifest import IMAGES, MEMORY, CudaTree, ProcessTree, manifest_digest
from restore_driver.artifact.publish import Draft, require_replaceable
from restore_driver.artifact.seal import seal_as_it_is
from restore_driver.attempt.context import Attempt, DumpContext
from restore_driver.attempt.walk import Details, Step
from restore_driver.capacity import require_free_disk
from restore_driver.compat.fingerprint import Gpu
from restore_driver.criu import command
from restore_driver.criu.compact import compact
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.files.capture import NAME, capture
from restore_driver.host import proc
from restore_driver.host.capabilities import CAP_SYS_RESOURCE, effective
from restore_driver.host.disk import is_full
from restore_driver.host.kill_tree import end_processes
from restore_driver.host.namespaces import open_entry
from restore_driver.host.sigcont import continue_tree
from restore_driver.host.trusted import require_trusted
from restore_driver.steps.quiesce import QuiesceSteps
from restore_driver.steps.tools import require_criu
from restore_driver.steps.wake import wake
from restore_driver.toolset import Toolset
from restore_driver.wire.phase import Phase
from restore_driver.wire.requests import CheckpointRequest

_REVOCABLE = ("digest", "sync", "manifest", "rename")
"""Steps of publishing before which a deadline may still end it."""
_MARGIN = 1.1
"""An image is a little larger than the memory it holds: tables, pipes, files."""


class DumpSteps(QuiesceSteps):
    """Steps of `checkpoint` and `checkpoint-and-end`, for one attempt."""

    context: DumpContext

    def __init__(self, tools: Toolset, request: CheckpointRequest) -> None:
        super().__init__(tools, request.pid, request.replica, request.holder, DumpContext())
        self.request = request

    def steps(self) -> dict[Phase, Step]:
        """Return the step of every phase of both sequences."""
        return super().steps() | {
            Phase.DRAFT: self.draft,
            Phase.DUMP: self.dump,
            Phase.CAPTURE: self.capture,
            Phase.CONTINUE: self.continue_replica,
            Phase.COMPACT: self.compact,
            Phase.PUBLISH: self.publish,
            Phase.END: self.end,
        }

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Refuse, besides, what CRIU cannot dump, an artifact directory that is not root's, and a full disk."""
        details = super().gate(attempt, deadline)
        criu = require_criu(self.tools)
        if proc.namespace_id(self.pid, "mnt") != proc.namespace_id(os.getpid(), "mnt"):
            criu.require_own_libraries()
        if not proc.has_session(self.pid):
            raise DriverError(
                Reason.REQUEST_INVALID,
                f"the session of process {self.pid} began outside of its pid namespace, which CRIU cannot dump",
                "start it with setsid",
            )
        require_replaceable(self.request.artifact.absolute())
        parent = self.request.artifact.absolute().parent
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_trusted(parent)
        unknown = set(self.request.gpus) - {gpu.uuid for gpu in self.tools.gpus}
        if unknown:
            raise DriverError(Reason.REQUEST_INVALID, f"this machine has no GPU {min(unknown)}", "see nvidia-smi -L")
        needed = int(sum(_resident_bytes(pid) for pid in self.context.pids) * _MARGIN)
        require_free_disk(parent, needed, "the image may need")
        return {**details, "resident_bytes": needed}

    def draft(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Create a hidden directory beside the artifact; everything is written there."""
        self.context.draft = draft = Draft.open(self.request.artifact)
        attempt.stack.callback(draft.close)
        attempt.intend(draft=str(draft.path))
        (draft.path / IMAGES).mkdir(mode=0o700)
        return {}

    def dump(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Dump with CRIU and leave the tree stopped, so that its files stay what the image says they are."""
        criu = require_criu(self.tools)
        attempt.intend(stopped=True)
        images, work = self.context.draft.path / IMAGES, self.tools.state.work(attempt.key)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = proc.tree(self.pid)
        user_id, shell_job = _unprivileged_user(before), os.getsid(self.pid) not in before
        if user_id is not None:
            os.chown(images, user_id, user_id)
            os.chown(work, user_id, user_id)
        task = command.Dump(proc.pid_chain(self.pid)[-1], shell_job, user_id)
        try:
            entry = open_entry(self.pid, attempt.stack)
            done = command.call(
                criu, task, entry, images, work, deadline_s=deadline.left_s(), kernel_cache=self.tools.kerndat
            )
        except DriverError as error:
            if proc.is_alive(self.pid):
                raise
            raise DriverError(Reason.REPLICA_LOST, f"process {self.pid} ended: {error.detail}", "replace it") from error
        if user_id is not None:
            for path in (images, *images.iterdir()):
                os.chown(path, 0, 0)
        # Stopped now, so no process starts or ends any more: this is the tree that was dumped.
        self.context.pids = pids = proc.tree(self.pid)
        self.context.process = _describe(self.pid, pids, shell_job=shell_job)
        self.context.cuda_inside = tuple(proc.pid_chain(pid)[-1] for pid in attempt.facts["cuda_pids"] if pid in pids)
        frozen = re.search(r"Frozen time: (\d+) us", done.output)
        bytes_ = sum(path.stat().st_size for path in images.iterdir())
        self.context.image_bytes = bytes_
        return {"image_bytes": bytes_, "frozen_s": int(frozen[1]) / 1e6 if frozen else None}

    def capture(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Archive the container's own files and its named shared memory."""
        return capture(self.context.pids, self.pid, self.context.draft.path / NAME, deadline.left_s)

    def continue_replica(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Continue the tree and wake it: the replica serves again, and its pause ends here."""
        continue_tree(self.pid, attempt.facts["start_ticks"])
        pids = [pid for pid in attempt.facts["cuda_pids"] if proc.is_alive(pid)]
        details = wake(
            self.tools,
            self.replica,
            self.pid,
            cuda_pids=pids,
            holder=self.holder,
            deadline=deadline,
            note=lambda facts: attempt.intend(**facts),
        )
        attempt.intend(went_on=True)
        return details

    def compact(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Drop zero pages of private anonymous memory, and offload what a restore fills in by itself."""
        self.context.compacted_bytes = 0
        if not self.request.compact:
            return {"compacted": False}
        images, memory = (self.context.draft.path / name for name in (IMAGES, MEMORY))
        offloaded = None if self.context.process.shell_job else memory  # see criu/offload_selection.py
        try:
            saved = compact(images, offloaded, check=deadline.left_s)
        except OSError as error:
            if not is_full(error):
                raise
            return {"compacted": False, "why": "the disk is full"}  # a large image is better than none
        self.context.compacted_bytes = saved.saved_bytes
        return {
            "before_bytes": saved.before_bytes,
            "after_bytes": saved.after_bytes,
            "saved_bytes": saved.saved_bytes,
            "offloaded_bytes": saved.offloaded_bytes,
        }

    def publish(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Write digests and the manifest, rename once, then seal files that only this process has written."""
        draft = self.context.draft
        manifest = draft.commit(self._about(), partial(_end_in_time, deadline))
        seal_as_it_is(draft.target)
        bytes_ = sum(entry.size_bytes for entry in manifest.files)
        attempt.answer.update(artifact=str(draft.target), digest=manifest_digest(manifest), bytes=bytes_)
        return {"bytes": bytes_, "files": len(manifest.files)}

    def end(self, attempt: Attempt, deadline: Deadline) -> Details:
        """End the replica, whose artifact is published."""
        end_processes(self.context.pids, deadline)
        return {"processes": len(self.context.pids)}

    def _gpus(self) -> tuple[Gpu, ...]:
        """Return the replica's GPUs in its own order; all of this machine's unless the request names them."""
        named = {gpu.uuid: gpu for gpu in self.tools.gpus}
        return tuple(named[uuid] for uuid in self.request.gpus) if self.request.gpus else self.tools.gpus

    def _about(self) -> dict[str, Any]:
        """Return the manifest's fields, the files excepted."""
        request, machine, context = self.request, self.tools.machine, self.context
        inside = context.cuda_inside
        return {
            "created_unix_s": time.time(),
            "fingerprint": machine.model_copy(
                update={
                    "image_digest": request.image_digest,
                    "engine": request.replica.engine.kind,
                    "engine_arguments": request.engine_arguments,
                    "gpus": self._gpus() if inside else (),
                }
            ),
            "process": context.process,
            "cuda": CudaTree(pids=inside, device_bytes=context.device_bytes if inside else 0),
            "replica": request.replica,
            "proof": context.proof,
            "image_bytes": context.image_bytes,
            "compacted_bytes": context.compacted_bytes,
        }


def _end_in_time(deadline: Deadline, step: str) -> None:
    if step in _REVOCABLE:
        deadline.left_s()


def _describe(root_pid: int, pids: tuple[int, ...], *, shell_job: bool) -> ProcessTree:
    chains = {pid: proc.pid_chain(pid)[-1] for pid in pids}
    return ProcessTree(
        root_pid=chains[root_pid],
        pids=tuple(sorted(chains.values())),
        user_id=proc.user_id(root_pid),
        shell_job=shell_job,
        external=external_pipes(root_pid, pids),
    )


def external_pipes(root_pid: int, pids: tuple[int, ...]) -> dict[str, str]:
    """Return the root's standard streams that are pipes out of the tree: descriptor number -> CRIU's name."""
    found = {}
    for number in ("0", "1", "2"):
        with suppress(OSError):
            name = str(Path(f"/proc/{root_pid}/fd/{number}").readlink())
            if name.startswith("pipe:") and not _both_ends_inside(name, pids):
                found[number] = name
    return found


def _both_ends_inside(name: str, pids: tuple[int, ...]) -> bool:
    modes = set()
    for pid in pids:
        with suppress(OSError):  # a zombie has no descriptors
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if str(link.readlink()) == name:
                        modes.add(link.lstat().st_mode & 0o600)
    return {0o400, 0o200} <= modes


def _unprivileged_user(pids: tuple[int, ...]) -> int | None:
    """Return the replica's user if CRIU must dump as that user: it is not root, and CAP_SYS_RESOURCE is missing."""
    users = set()
    for pid in pids:
        with suppress(OSError):  # it ended meanwhile
            users.add(proc.user_id(pid))
    if CAP_SYS_RESOURCE in effective() or len(users) != 1:
        return None
    return users.pop() or None


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
