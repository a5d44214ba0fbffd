"""Prove a restored replica: it must answer what it answered before the dump, before it is ready.

A restored process is not yet a replica that works. In this order, up to the first failure: it is alive; it listens
where it did; the digest of the weights on the GPU equals the recorded one (exact); each known request gets its answer;
and a replica without known requests accepts a connection on each listener.

Batched steps of an engine need not be bit-reproducible even without a restore: split-K matrix products differ from run
to run. So tokens are compared exactly, numbers within the noise that the replica itself showed before the dump.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict

from restore_driver.deadline import Deadline
from restore_driver.engines import ProcessRoot, inprocess
from restore_driver.engines.http import call
from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.netns import in_network_namespace
from restore_driver.host.sockets import Listener, listeners
from restore_driver.proof.expectations import Recorded, UnexpectedAnswerError, judge, observe, repeats, settle, shown
from restore_driver.wire.replica_spec import InProcessEngine, KnownRequest, ReplicaSpec

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound
"""Address at which a listener on all addresses is reached."""


class ProofRecord(BaseModel):
    """Answers, digest and listeners recorded before the dump; part of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: tuple[Recorded, ...] = ()
    weights_digest: str | None = None
    listeners: tuple[Listener, ...] = ()


class ProofCheck(BaseModel):
    """One check that passed."""

    model_config = ConfigDict(frozen=True)

    what: str
    got: Any
    took_s: float


class Proof(BaseModel):
    """All checks after a restore; every one passed."""

    model_config = ConfigDict(frozen=True)

    checks: tuple[ProofCheck, ...]
    took_s: float


def record(spec: ReplicaSpec, process: ProcessRoot, deadline_s: float) -> ProofRecord:
    """Record the answers, digest and listeners of a live replica.

    Raises:
        DriverError: PROOF_FAILED when a known answer is not given even before the dump, or varies; DEADLINE_EXCEEDED.
    """
    deadline = Deadline.after("recording the proof", deadline_s)
    answers = tuple(_record_one(known, process, deadline) for known in spec.proof.requests)
    found = listeners(process.host_pid, proc.tree(process.host_pid))
    return ProofRecord(answers=answers, weights_digest=_weights_digest(spec, process, deadline), listeners=found)


def prove(spec: ReplicaSpec, process: ProcessRoot, before: ProofRecord, deadline_s: float) -> Proof:
    """Check a restored replica against its record.

    Raises:
        DriverError: PROOF_FAILED naming request, expected and actual answer; DEADLINE_EXCEEDED.
    """
    began_s = time.monotonic()
    checks = _PassedChecks(Deadline.after("the proof", deadline_s))
    checks.note("alive", partial(_alive, process))
    if len(spec.proof.requests) != len(before.answers):
        raise DriverError(
            Reason.PROOF_FAILED,
            f"the spec has {len(spec.proof.requests)} known requests, the record {len(before.answers)} answers",
            "restore with the spec of the checkpoint",
        )
    with ThreadPoolExecutor(2, thread_name_prefix="proof") as aside:  # both take as long as a request: tens of ms
        digest = None
        listening = aside.submit(checks.timed, "listeners", partial(_listens, process, before.listeners))
        if before.weights_digest is not None or _wants_digest(spec):
            look = partial(_same_digest, spec, process, before, checks.deadline)
            digest = aside.submit(checks.timed, "weights' digest", look)
        try:
            for known, recorded in zip(spec.proof.requests, before.answers, strict=True):
                checks.note(_name(known), partial(_prove_one, known, recorded, process, checks.deadline))
        finally:  # a missing listener explains more than a missing answer
            checks.held.insert(1, listening.result())
        if digest is not None:
            checks.held.append(digest.result())
    if not spec.proof.requests:
        for listener in before.listeners:
            checks.note(_address(listener), partial(_accepts, process, listener, checks.deadline))
    return Proof(checks=tuple(checks.held), took_s=time.monotonic() - began_s)


class _PassedChecks:
    """Collects the checks that passed, with their time."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.held: list[ProofCheck] = []

    def note(self, what: str, look: Callable[[], Any]) -> None:
        self.held.append(self.timed(what, look))

    def timed(self, what: str, look: Callable[[], Any]) -> ProofCheck:
        self.deadline.left_s()
        began_s = time.monotonic()
        got = look()
        return ProofCheck(what=what, got=got, took_s=time.monotonic() - began_s)


def _alive(process: ProcessRoot) -> bool:
    if not proc.is_alive(process.host_pid):
        raise DriverError(Reason.PROOF_FAILED, f"process {process.host_pid} is not alive", "see its log")
    return True


def _listens(process: ProcessRoot, expected: tuple[Listener, ...]) -> list[str]:
    """Compare listeners in /proc only: an unexpected connection could disturb an engine's own rendezvous."""
    now = listeners(process.host_pid, proc.tree(process.host_pid)) if expected else ()
    for listener in expected:
        if listener not in now:
            raise DriverError(
                Reason.PROOF_FAILED,
                f"no process listens on {_address(listener)}; expected {', '.join(map(_address, expected))}, "
                f"got {', '.join(map(_address, now)) or 'none'}",
            )
    return [_address(listener) for listener in expected]


def _accepts(process: ProcessRoot, listener: Listener, deadline: Deadline) -> bool:
    left_s = deadline.left_s()
    host = _LOOPBACK.get(listener.host, listener.host)

    def connect() -> None:
        socket.create_connection((host, listener.port), timeout=left_s).close()

    try:
        in_network_namespace(process.host_pid, connect, left_s)
    except TimeoutError:
        raise DriverError(Reason.DEADLINE_EXCEEDED, f"{_address(listener)} accepts no connection") from None
    except OSError as error:
        raise DriverError(Reason.PROOF_FAILED, f"{_address(listener)} accepts no connection: {error}") from error
    return True


def _same_digest(spec: ReplicaSpec, process: ProcessRoot, before: ProofRecord, deadline: Deadline) -> str | None:
    digest = _weights_digest(spec, process, deadline)
    if digest != before.weights_digest:
        raise DriverError(
            Reason.PROOF_FAILED, f"the digest of the weights is {digest}, expected {before.weights_digest}"
        )
    return digest


def _weights_digest(spec: ReplicaSpec, process: ProcessRoot, deadline: Deadline) -> str | None:
    if isinstance(spec.engine, InProcessEngine) and _wants_digest(spec):
        return inprocess.digest(spec.engine, process, deadline.left_s())
    return None


def _wants_digest(spec: ReplicaSpec) -> bool:
    return isinstance(spec.engine, InProcessEngine) and spec.proof.weights_digest


def _record_one(known: KnownRequest, process: ProcessRoot, deadline: Deadline) -> Recorded:
    try:
        return settle(known.expect, [_ask(known, process, deadline) for _ in range(repeats(known.expect))])
    except UnexpectedAnswerError as error:
        raise DriverError(
            Reason.PROOF_FAILED, f"{_name(known)} answered {error}", "fix the spec's proof; nothing was touched"
        ) from error


def _prove_one(known: KnownRequest, before: Recorded, process: ProcessRoot, deadline: Deadline) -> str:
    try:
        got = _ask(known, process, deadline)
        judge(known.expect, before, got)
    except UnexpectedAnswerError as error:
        raise DriverError(Reason.PROOF_FAILED, f"{_name(known)} answered {error}") from error
    return shown(got)


def _ask(known: KnownRequest, process: ProcessRoot, deadline: Deadline) -> Any:
    return observe(known.expect, call(known.call, process, deadline.left_s(), Reason.PROOF_FAILED).text)


def _name(known: KnownRequest) -> str:
    return f"{known.call.method} {known.call.url}"


def _address(listener: Listener) -> str:
    return f"[{listener.host}]:{listener.port}" if ":" in listener.host else f"{listener.host}:{listener.port}"
