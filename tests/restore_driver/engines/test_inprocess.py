"""The helper in a replica, asked over its unix socket, whatever it answers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from restore_driver.engines import ProcessRoot, ResumeState, inprocess, quiesce, resume
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.replica_spec import InProcessEngine
from tests.restore_driver.engines.fake_engines import Helper

SPEC = InProcessEngine(kind="inprocess", socket="/run/helper.sock", models=("m",), holder="/run/holder.sock")


def test_requests_have_operation_deadline_and_leases(helper: Helper) -> None:
    """Though its path is longer than a socket's address may be."""
    assert quiesce(SPEC, helper.target, 5.0) == {"engine": "inprocess", "digest": "d"}
    resume(SPEC, helper.target, 5.0)
    resume(SPEC, helper.target, 5.0, ResumeState(leases={"m": "token"}))
    assert inprocess.digest(SPEC, helper.target, 5.0) == "d"
    assert helper.asked == [
        {"op": "quiesce", "deadline_s": 4.5, "version": 1},
        {"op": "resume", "deadline_s": 4.5, "version": 1},
        {
            "op": "resume",
            "deadline_s": 4.5,
            "leases": {"m": "token"},
            "holder_socket": "/run/holder.sock",
            "version": 1,
        },
        {"op": "digest", "deadline_s": 4.5, "version": 1},
    ]


def test_links_are_the_replicas_own(helper: Helper) -> None:
    """An absolute link is followed in the replica's root, not in ours; one that climbs stays there."""
    (helper.root / "absolute").symlink_to("/run/helper.sock")
    (helper.root / "climbing").symlink_to("../../../../../../run/helper.sock")
    for name in ("/absolute", "/climbing", "/run/../../../run/helper.sock"):
        quiesce(SPEC.model_copy(update={"socket": name}), helper.target, 5.0)
    assert [message["op"] for message in helper.asked] == ["quiesce"] * 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b'{"error": {"reason": "QuiesceFailed", "detail": "RuntimeError: a step hangs", "hint": ""}}\n',
            "cannot quiesce: RuntimeError: a step hangs",
        ),
        (b'{"error": {"reason": "Odd", "detail": "why"}}\n', "cannot quiesce: Odd: why"),
        (b'{"error": "why"}\n', "cannot quiesce: an error without its form: 'why'"),
        (b'{"ok": true}\n', "answered {'ok': True}"),
        (b'{"fine": true}\n', "answered {'fine': True}"),
        (b"[]\n", "gave no answer: a line is not a JSON object"),
        (b"what?\n", "gave no answer: a line is not JSON: Expecting value"),
        (b"", "closed the connection without an answer"),
        (b"x" * (2 << 20), "gave no answer: a line is longer than 1,048,576 bytes"),
    ],
)
def test_each_malformed_answer_is_reported(helper: Helper, answer: bytes, said: str) -> None:
    helper.answer = lambda message: answer
    with pytest.raises(DriverError) as caught:
        quiesce(SPEC, helper.target, 5.0)

    assert caught.value.reason is Reason.QUIESCE_FAILED
    assert caught.value.detail.startswith(f"the helper at /run/helper.sock {said}")


def test_a_helper_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DriverError) as caught:
        resume(SPEC, ProcessRoot(os.getpid(), tmp_path), 5.0)
    assert caught.value.reason is Reason.RESUME_FAILED


def test_a_hang_ends_at_the_deadline(helper: Helper) -> None:
    done = threading.Event()
    helper.answer = lambda message: str(done.wait(30.0)).encode()
    with pytest.raises(DriverError) as caught:
        quiesce(SPEC, helper.target, 0.2)
    done.set()
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED


def test_no_digest_is_no_proof(helper: Helper) -> None:
    helper.answer = lambda message: b'{"result": {}}\n'
    with pytest.raises(DriverError) as caught:
        inprocess.digest(SPEC, helper.target, 5.0)
    assert caught.value.reason is Reason.PROOF_FAILED
