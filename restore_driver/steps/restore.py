"""An artifact and a placeholder -> restored processes."""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from restore_driver.artifact import manifest as manifests
from restore_driver.artifact.manifest import IMAGES, MEMORY
from restore_driver.artifact.read_lock import reading
from restore_driver.artifact.seal import check_seal, reverify
from restore_driver.attempt.journal import Journal, path_of, read
from restore_driver.attempt.walk import Attempt, Step
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
from restore_driver.steps.gpu_memory_gate import refuse_full_cards
from restore_driver.steps.quiesce import Details
from restore_driver.steps.resume import Waking, take_up
from restore_driver.tools import Tools
from restore_driver.wire.phase import Phase
from restore_driver.wire.requests import RestoreRequest

_HELPERS = 64
"""PIDs kept free above the snapshot's highest, for CRIU itself and its helpers."""


class Restoring(Waking):
    """Steps of `restore`."""

    def __init__(self, tools: Tools, request: RestoreRequest) -> None:
        super().__init__(tools, request.holder)
        self.request = request

    def steps(self) -> dict[Phase, Step]:
        """Every phase of the table."""
        return super().steps() | {
            Phase.GATE: self.gate,
            Phase.LOCK: self.lock,
            Phase.SEAL: self.seal,
            Phase.FILES: self.place_files,
            Phase.RESTORE: self.restore,
            Phase.FILL: self.fill,
        }

    def gate(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Everything that can be refused without touching anything."""
        request = self.request
        if self.tools.criu is None:
            raise DriverError(Reason.CRIU_MISSING, "there is no CRIU", "restore_driver/criu/install.sh installs it")
        self.tools.criu.require_own_libraries()
        self._take_hold(attempt)
        manifest = attempt.live["manifest"]
        attempt.live["namespace"] = self._placeholder_namespace()
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
        attempt.live["gpus"] = tuple(gpu.uuid for gpu in gpus)
        attempt.live["device_map"] = device_map(
            tuple(gpu.uuid for gpu in manifest.fingerprint.gpus), attempt.live["gpus"]
        )
        self._refuse_too_little_memory(attempt)
        refuse_full_cards(self.tools, attempt.live["gpus"], manifest.cuda.device_bytes, deadline)
        attempt.key = key_of(request, attempt.live["digest"])
        return {"snapshot": manifest.name, "gpus": len(gpus)}

    def _take_hold(self, attempt: Attempt) -> None:
        """The artifact by its directory, not its name: what is published or removed there meanwhile is another's."""
        artifact = self.request.artifact.absolute()
        require_trusted(artifact)
        attempt.stack.enter_context(reading(artifact))
        directory = keep_open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, attempt.stack)
        attempt.live["artifact"] = Path(f"/proc/self/fd/{directory}")
        content = manifests.read(artifact)
        attempt.live["manifest"] = manifests.parse(content, str(artifact / manifests.NAME))
        attempt.live["digest"] = manifests.digest_of(content)

    def lock(self, attempt: Attempt, deadline: Deadline) -> Details:
        """One attempt, ever, of this pod on this snapshot; one at a time in this placeholder."""
        pid = self.request.placeholder_pid
        ticks = proc.start_ticks(pid)
        attempt.stack.enter_context(self.tools.state.alone_in(f"{pid}-{ticks}"))
        self._refuse_taken_pids(attempt)  # nobody else comes from here on
        attempt.journal = Journal.open(self.tools.state.attempts, "restore", attempt.key)
        attempt.intend(placeholder_pid=pid, placeholder_ticks=ticks, namespace=attempt.live["namespace"])
        return {"key": attempt.key}

    def seal(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The artifact is what was verified when it was staged."""
        check, artifact = (reverify if self.request.verify else check_seal), self.request.artifact.absolute()
        manifest = check(artifact)
        looked_at, held = os.stat(artifact), os.stat(attempt.live["artifact"])
        if (looked_at.st_ino, looked_at.st_dev) != (held.st_ino, held.st_dev) or manifest != attempt.live["manifest"]:
            raise DriverError(Reason.SEAL_BROKEN, f"{artifact} was replaced while it was looked at", "ask again")
        take_up(attempt, manifest.replica, manifest.proof)
        return {"verified": "digests" if self.request.verify else "seal"}

    def place_files(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The container's own files and named shared memory, before CRIU opens them."""
        archive = attempt.live["artifact"] / NAME
        if not archive.exists():
            return {"files": 0}
        root = Path(f"/proc/{self.request.placeholder_pid}/root")
        attempt.intend(placed=place.survey(archive, root), place_key=attempt.key)
        return {"files": place.place(archive, root, attempt.key, deadline)}

    def restore(self, attempt: Attempt, deadline: Deadline) -> Details:
        """CRIU, within the placeholder's namespaces and cgroups; the tree is left stopped if it lacks memory."""
        manifest, criu = attempt.live["manifest"], self.tools.criu
        assert criu is not None
        work = self.tools.state.work(attempt.key)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = proc.members(attempt.live["namespace"])
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
            images = attempt.live["artifact"] / IMAGES
            done = command.call(criu, task, entry, images, work, deadline.left_s(), self.tools.kerndat)
            if entry.not_joined:
                attempt.warnings.append(f"cgroups that are out of sight were not joined: {', '.join(entry.not_joined)}")
        self._find_restored(attempt)
        said = {name: int(value) / 1e6 for name, value in re.findall(r"^(\w+) time: (\d+) us", done.output, re.M)}
        return {"criu_s": done.took_s, "huge_pages": huge, **{f"criu_{name.lower()}_s": s for name, s in said.items()}}

    def fill(self, attempt: Attempt, deadline: Deadline) -> Details:
        """The memory that was set apart from CRIU's images; then the tree goes on."""
        if not attempt.live["manifest"].memory_bytes:
            return {"bytes": 0}
        filled = fill(attempt.live["artifact"] / MEMORY, attempt.live["restored"], deadline)
        root = attempt.live["restored"][attempt.live["manifest"].process.root_pid]
        continue_tree(*root)
        return {"bytes": filled.bytes, "pieces": filled.pieces, "threads": filled.threads}

    def prove(self, attempt: Attempt, deadline: Deadline) -> Details:
        """Besides: what was moved aside is not needed any more."""
        details = super().prove(attempt, deadline)
        attempt.answer["placeholder_pid"] = self.request.placeholder_pid
        attempt.answer["start_ticks"] = proc.start_ticks(attempt.live["host_pid"])
        if "placed" in attempt.facts:
            root = Path(f"/proc/{self.request.placeholder_pid}/root")
            place.forget_aside(attempt.facts["placed"], root, attempt.key)
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
        """Those that the request names; else the snapshot's own where this machine has them, else its first ones."""
        known = {gpu.uuid: gpu for gpu in self.tools.gpus}
        if not self.request.gpus:
            own = tuple(known[gpu.uuid] for gpu in before if gpu.uuid in known)
            return own if len(own) == len(before) else self.tools.gpus[: len(before)]
        unknown = [uuid for uuid in self.request.gpus if uuid not in known]
        if unknown:
            raise DriverError(Reason.FINGERPRINT_MISMATCH, f"this machine has no GPU {unknown[0]}", "see nvidia-smi -L")
        return tuple(known[uuid] for uuid in self.request.gpus)

    def _refuse_taken_pids(self, attempt: Attempt) -> None:
        taken = sorted(set(attempt.live["manifest"].process.pids) & set(proc.members(attempt.live["namespace"])))
        if taken:
            raise DriverError(
                Reason.PID_COLLISION, f"PID {taken[0]} is taken in the placeholder", "restore into an empty placeholder"
            )

    def _refuse_too_little_memory(self, attempt: Attempt) -> None:
        needed = attempt.live["manifest"].restored_bytes
        free = available_memory_bytes()
        if free < needed:
            raise DriverError(
                Reason.TOO_LITTLE_MEMORY,
                f"the image needs {needed:,} bytes, {free:,} are available",
                "free some memory",
            )

    def _streams(self, manifest: manifests.Manifest, stack: ExitStack) -> dict[str, int]:
        """The dumped pipes to the outside become the placeholder's own standard streams."""
        streams = {}
        for number, name in manifest.process.external.items():
            path = Path(f"/proc/{self.request.placeholder_pid}/fd/{number}")
            if stat.S_ISSOCK(path.stat().st_mode):
                path = Path("/dev/null")  # a socket can't be opened a second time
            streams[name] = keep_open(path, os.O_RDONLY if number == "0" else os.O_WRONLY, stack)
        return streams

    def _find_restored(self, attempt: Attempt) -> None:
        manifest, members = attempt.live["manifest"], proc.members(attempt.live["namespace"])
        if manifest.process.root_pid not in members:
            raise DriverError(
                Reason.CRIU_RESTORE_FAILED, f"CRIU ended well, and process {manifest.process.root_pid} is not there"
            )
        attempt.live["host_pid"] = members[manifest.process.root_pid]
        missing = set(manifest.cuda.pids) - set(members)
        if missing:
            raise DriverError(Reason.CRIU_RESTORE_FAILED, f"CUDA process {min(missing)} is not there any more")
        attempt.live["restored"] = {pid: proc.identity(members[pid]) for pid in manifest.process.pids if pid in members}
        attempt.live["cuda_host_pids"] = [members[pid] for pid in manifest.cuda.pids]


def key_of(request: RestoreRequest, digest: str) -> str:
    """Names the attempt: the pod's UID, or the placeholder's namespace and the start of its first process; and what.

    Raises:
        DriverError: REPLICA_LOST when there is no such placeholder.
    """
    pid = request.placeholder_pid
    who = request.pod_uid or f"{proc.namespace_id(pid, 'pid')}.{proc.start_ticks(pid)}"
    return f"restore-{who}-{digest[:16]}"


def restored_before(tools: Tools, request: RestoreRequest) -> dict[str, Any] | None:
    """The answer of an attempt of this pod on this snapshot that was proven, if its replica lives; else None.

    Whoever asks again, since he lost the first answer, must not be told to start another replica.
    """
    try:
        path = path_of(tools.state.attempts, key_of(request, manifests.digest_of(manifests.read(request.artifact))))
        outcome = read(path).outcome or {}
    except (OSError, DriverError):
        return None
    answer: dict[str, Any] = outcome.get("answer", {})
    if outcome.get("reason") is not None or not proc.is_same(answer.get("host_pid", 0), answer.get("start_ticks", -1)):
        return None
    return answer
