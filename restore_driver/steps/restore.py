"""The first phases of a restore: from an artifact and a placeholder to restored processes."""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from restore_driver.artifact.manifest import (
    IMAGES,
    MANIFEST_NAME,
    MEMORY,
    Manifest,
    digest_of_bytes,
    parse_manifest,
    read_manifest_bytes,
)
from restore_driver.artifact.read_lock import shared_lock
from restore_driver.artifact.seal import check_seal, verify
from restore_driver.attempt.context import Attempt, RestoreContext
from restore_driver.attempt.journal import path_of, read
from restore_driver.attempt.walk import Details, Step
from restore_driver.capacity import require_free_gpu_memory, require_free_memory
from restore_driver.compat.fingerprint import Gpu
from restore_driver.compat.rules import incompatibilities
from restore_driver.criu import command
from restore_driver.criu.fill import fill
from restore_driver.cuda import device_map
from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.files import place
from restore_driver.files.capture import NAME
from restore_driver.host import proc
from restore_driver.host.hugepages import transparent_huge_pages
from restore_driver.host.meminfo import available_memory_bytes
from restore_driver.host.namespaces import keep_open, open_entry
from restore_driver.host.sigcont import continue_tree
from restore_driver.host.trusted import require_trusted
from restore_driver.steps.resume import ResumeSteps
from restore_driver.steps.tools import require_criu
from restore_driver.toolset import Toolset
from restore_driver.wire.phase import Phase
from restore_driver.wire.requests import RestoreRequest

_HELPERS = 64
"""PIDs kept free above the snapshot's highest, for CRIU itself and its helpers."""


class RestoreSteps(ResumeSteps):
    """Steps of `restore`, for one attempt."""

    context: RestoreContext

    def __init__(self, tools: Toolset, request: RestoreRequest) -> None:
        super().__init__(tools, request.holder, RestoreContext())
        self.request = request

    def steps(self) -> dict[Phase, Step]:
        """Return the step of every phase of the sequence."""
        return super().steps() | {
            Phase.GATE: self.gate,
            Phase.LOCK: self.lock,
            Phase.SEAL: self.seal,
            Phase.FILES: self.place_files,
            Phase.RESTORE: self.restore,
            Phase.FILL: self.fill,
        }

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Refuse all that can be refused without touching anything."""
        request = self.request
        require_criu(self.tools).require_own_libraries()
        self._take_hold(attempt)
        manifest = self.context.manifest
        self.context.namespace = self._placeholder_namespace()
        gpus = self._gpus(manifest.fingerprint.gpus)
        arguments = request.engine_arguments
        if arguments is None:
            arguments = manifest.fingerprint.engine_arguments
        machine = self.tools.machine.model_copy(
            update={"image_digest": request.image_digest, "engine": request.engine, "engine_arguments": arguments}
        )
        wrong = incompatibilities(manifest.fingerprint, machine, gpus=gpus)
        if wrong:
            raise DriverError(Reason.FINGERPRINT_MISMATCH, "; ".join(wrong), "restore on a machine like the snapshot's")
        self.context.gpus = tuple(gpu.uuid for gpu in gpus)
        before = tuple(gpu.uuid for gpu in manifest.fingerprint.gpus)
        self.context.device_map = device_map(before, self.context.gpus)
        require_free_memory(available_memory_bytes(), manifest.restored_bytes, "the image needs", "free some memory")
        require_free_gpu_memory(self.tools.cuda, self.context.gpus, manifest.cuda.device_bytes, deadline)
        attempt.key = key_of(request, self.context.digest)
        return {"snapshot": manifest.name, "gpus": len(gpus)}

    def _take_hold(self, attempt: Attempt) -> None:
        """Lock the artifact for reading, and open its directory: its name may stand for another artifact later."""
        artifact = self.request.artifact.absolute()
        require_trusted(artifact)
        attempt.stack.enter_context(shared_lock(artifact))
        directory = keep_open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, attempt.stack)
        self.context.artifact = Path(f"/proc/self/fd/{directory}")
        content = read_manifest_bytes(artifact)
        self.context.manifest = parse_manifest(content, str(artifact / MANIFEST_NAME))
        self.context.digest = digest_of_bytes(content)

    def lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Lock pod and snapshot, for one attempt ever, and the placeholder, for one attempt at a time."""
        pid = self.request.placeholder_pid
        ticks = proc.start_ticks(pid)
        attempt.stack.enter_context(self.tools.state.lock_placeholder(f"{pid}-{ticks}"))
        self._refuse_taken_pids()  # with the lock held, no other restore adds processes
        attempt.open_journal(self.tools.state.attempts)
        attempt.intend(placeholder_pid=pid, placeholder_ticks=ticks, namespace=self.context.namespace)
        return {"key": attempt.key}

    def seal(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Check that the artifact is what was verified when it was staged."""
        check, artifact = (verify if self.request.verify else check_seal), self.request.artifact.absolute()
        manifest = check(artifact)
        looked_at, held = artifact.stat(), self.context.artifact.stat()
        if (looked_at.st_ino, looked_at.st_dev) != (held.st_ino, held.st_dev) or manifest != self.context.manifest:
            raise DriverError(Reason.SEAL_BROKEN, f"{artifact} was replaced while it was looked at", "ask again")
        self.context.replica, self.context.proof = manifest.replica, manifest.proof
        return {"verified": "digests" if self.request.verify else "seal"}

    def place_files(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Place the container's own files and named shared memory, before CRIU opens them."""
        archive = self.context.artifact / NAME
        if not archive.exists():
            return {"files": 0}
        root = Path(f"/proc/{self.request.placeholder_pid}/root")
        attempt.intend(placed=place.survey(archive, root), place_key=attempt.key)
        return {"files": place.place(archive, root, attempt.key, deadline)}

    def restore(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Run CRIU in the placeholder's namespaces and cgroups; leave the tree stopped if memory is still missing."""
        manifest, criu = self.context.manifest, require_criu(self.tools)
        work = self.tools.state.work(attempt.key)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = proc.members(self.context.namespace)
        attempt.intend(present={str(inside): proc.start_ticks(pid) for inside, pid in before.items()})
        huge = self.request.restored_huge_pages
        with ExitStack() as stack:
            entry = open_entry(
                self.request.placeholder_pid, stack, cgroups=True, above_pid=max(manifest.process.pids) + _HELPERS
            )
            task = command.Restore(
                manifest.process.shell_job, self._streams(manifest, stack), stopped=manifest.memory_bytes > 0
            )
            if huge:  # until the attempt's end: CUDA's restore reads, and so faults in, what compaction dropped
                pages = transparent_huge_pages("always", self.tools.state.huge_pages, warn=attempt.warnings.append)
                huge = attempt.stack.enter_context(pages)
            images = self.context.artifact / IMAGES
            done = command.call(
                criu, task, entry, images, work, deadline_s=deadline.left_s(), kernel_cache=self.tools.kerndat
            )
            if entry.not_joined:
                attempt.warnings.append(
                    f"cgroups that are not visible here were not joined: {', '.join(entry.not_joined)}"
                )
        self._find_restored()
        times = re.findall(r"^(\w+) time: (\d+) us", done.output, re.MULTILINE)
        times_s = {f"criu_{name.lower()}_s": int(value) / 1e6 for name, value in times}
        return {"criu_s": done.took_s, "huge_pages": huge, **times_s}

    def fill(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Fill in the memory that was offloaded from CRIU's images, then continue the tree."""
        context = self.context
        if not context.manifest.memory_bytes:
            return {"bytes": 0}
        filled = fill(context.artifact / MEMORY, context.restored, deadline)
        continue_tree(*context.restored[context.manifest.process.root_pid])
        return {"bytes": filled.bytes, "pieces": filled.pieces, "threads": filled.threads}

    def prove(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Prove the replica, then remove the files that were moved aside for it."""
        details = super().prove(attempt, deadline)
        attempt.answer["placeholder_pid"] = self.request.placeholder_pid
        attempt.answer["start_ticks"] = proc.start_ticks(self.context.host_pid)
        if "placed" in attempt.facts:
            root = Path(f"/proc/{self.request.placeholder_pid}/root")
            place.remove_aside(attempt.facts["placed"], root, attempt.key)
        return details

    def _placeholder_namespace(self) -> int:
        pid = self.request.placeholder_pid
        try:
            namespace = proc.namespace_id(pid, "pid")
        except DriverError as error:
            raise DriverError(Reason.PLACEHOLDER_LOST, f"placeholder process {pid} does not exist") from error
        if namespace == proc.namespace_id(os.getpid(), "pid"):
            raise DriverError(
                Reason.REQUEST_INVALID,
                f"process {pid} shares this machine's pid namespace: it is no placeholder",
                "name PID 1 of a container, or make one: forethaw placeholder",
            )
        if proc.pid_chain(pid)[-1] != 1:
            raise DriverError(
                Reason.REQUEST_INVALID,
                f"process {pid} is not PID 1 of its pid namespace",
                "name the placeholder's PID 1",
            )
        return namespace

    def _gpus(self, before: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        """Return the GPUs of the request; else the snapshot's own where this machine has them, else its first ones."""
        known = {gpu.uuid: gpu for gpu in self.tools.gpus}
        if not self.request.gpus:
            own = tuple(known[gpu.uuid] for gpu in before if gpu.uuid in known)
            return own if len(own) == len(before) else self.tools.gpus[: len(before)]
        unknown = [uuid for uuid in self.request.gpus if uuid not in known]
        if unknown:
            raise DriverError(Reason.FINGERPRINT_MISMATCH, f"this machine has no GPU {unknown[0]}", "see nvidia-smi -L")
        return tuple(known[uuid] for uuid in self.request.gpus)

    def _refuse_taken_pids(self) -> None:
        taken = sorted(set(self.context.manifest.process.pids) & set(proc.members(self.context.namespace)))
        if taken:
            raise DriverError(
                Reason.PID_COLLISION, f"PID {taken[0]} is taken in the placeholder", "restore into an empty placeholder"
            )

    def _streams(self, manifest: Manifest, stack: ExitStack) -> dict[str, int]:
        """Connect the dumped pipes that led out of the tree to the placeholder's own standard streams."""
        streams = {}
        for number, name in manifest.process.external.items():
            path = Path(f"/proc/{self.request.placeholder_pid}/fd/{number}")
            if stat.S_ISSOCK(path.stat().st_mode):
                path = Path("/dev/null")  # a socket cannot be opened a second time
            streams[name] = keep_open(path, os.O_RDONLY if number == "0" else os.O_WRONLY, stack)
        return streams

    def _find_restored(self) -> None:
        context = self.context
        manifest, members = context.manifest, proc.members(context.namespace)
        if manifest.process.root_pid not in members:
            raise DriverError(
                Reason.CRIU_RESTORE_FAILED, f"CRIU ended well, and process {manifest.process.root_pid} is not there"
            )
        context.host_pid = members[manifest.process.root_pid]
        missing = set(manifest.cuda.pids) - set(members)
        if missing:
            raise DriverError(Reason.CRIU_RESTORE_FAILED, f"CUDA process {min(missing)} is not there any more")
        context.restored = {pid: proc.identity(members[pid]) for pid in manifest.process.pids if pid in members}
        context.cuda_host_pids = tuple(members[pid] for pid in manifest.cuda.pids)


def key_of(request: RestoreRequest, digest: str) -> str:
    """Return the key of an attempt: the pod's UID, or the placeholder's namespace and start; and the snapshot.

    Raises:
        DriverError: REPLICA_LOST when there is no such placeholder.
    """
    pid = request.placeholder_pid
    who = request.pod_uid or f"{proc.namespace_id(pid, 'pid')}.{proc.start_ticks(pid)}"
    return f"restore-{who}-{digest[:16]}"


def restored_before(tools: Toolset, request: RestoreRequest) -> dict[str, Any] | None:
    """Return the answer of a proven attempt of this pod on this snapshot if its replica is alive, else None.

    A client that lost the first answer and asks again must not start another replica.
    """
    try:
        path = path_of(tools.state.attempts, key_of(request, digest_of_bytes(read_manifest_bytes(request.artifact))))
        outcome = read(path).outcome or {}
    except (OSError, DriverError):
        return None
    answer: dict[str, Any] = outcome.get("answer", {})
    if outcome.get("reason") is not None or not proc.is_same(answer.get("host_pid", 0), answer.get("start_ticks", -1)):
        return None
    return answer
