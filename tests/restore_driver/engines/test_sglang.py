"""SGLang's memory released and taken back: never while a request is there, never what was not released."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from restore_driver.engines import ResumeState, quiesce, resume
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.replica_spec import SglangEngine
from tests.restore_driver.engines.fake_engines import HERE, FakeSglang


def spec(sglang: FakeSglang, **more: Any) -> SglangEngine:
    return SglangEngine.model_validate({"kind": "sglang", "base_url": sglang.base_url, **more})


def test_memory_is_released_and_taken_back(sglang: FakeSglang) -> None:
    rested = quiesce(spec(sglang), HERE, 5.0)
    assert (sglang.released, sglang.paused) == ({"kv_cache", "weights"}, True)
    woken = resume(spec(sglang), HERE, 5.0)

    assert rested == {"engine": "sglang", "tags": ["kv_cache", "weights"], "paused": True, "looks_for_idle": 2}
    assert woken == {"engine": "sglang", "tags": ["kv_cache", "weights"], "released": True, "continued": True}
    assert (sglang.released, sglang.paused, sglang.weights, sglang.dead) == (set(), False, "loaded", False)
    assert sglang.asked == [
        "GET /server_info",
        "POST /flush_cache",
        "POST /pause_generation",
        "POST /flush_cache",
        "POST /release_memory_occupation",
        "POST /resume_memory_occupation",
        "POST /continue_generation",
    ]


def test_requests_are_waited_for_before_generation_is_paused(sglang: FakeSglang) -> None:
    sglang.running = [3, 2]
    assert quiesce(spec(sglang), HERE, 5.0)["looks_for_idle"] == 4
    assert sglang.asked[1:5] == ["POST /flush_cache"] * 3 + ["POST /pause_generation"]


def test_without_a_pause_endpoint_it_is_released_when_idle(sglang: FakeSglang) -> None:
    sglang.has_pause, sglang.info_path = False, "/get_server_info"
    assert quiesce(spec(sglang), HERE, 5.0)["paused"] is False
    assert resume(spec(sglang), HERE, 5.0)["continued"] is False
    assert sglang.dead is False


def test_release_is_journaled_before_it_is_requested(sglang: FakeSglang) -> None:
    noted: list[tuple[Mapping[str, Any], list[str]]] = []
    quiesce(spec(sglang), HERE, 5.0, lambda facts: noted.append((facts, list(sglang.asked))))

    assert [facts for facts, _ in noted] == [{"released": True}]
    assert "POST /release_memory_occupation" not in noted[0][1]


def test_an_undo_takes_back_nothing_that_was_not_released(sglang: FakeSglang) -> None:
    """The scheduler would die of it."""
    sglang.faults["/flush_cache"] = (500, "broken")
    noted: dict[str, Any] = {}
    with pytest.raises(DriverError):
        quiesce(spec(sglang), HERE, 5.0, noted.update)
    resume(spec(sglang), HERE, 5.0, ResumeState(released=noted.get("released", False)))

    assert sglang.asked[-1] == "POST /continue_generation"
    assert sglang.dead is False


def test_waking_that_fails_after_the_memory_was_taken_back_is_repeated_without_that(sglang: FakeSglang) -> None:
    noted: dict[str, Any] = {}
    quiesce(spec(sglang), HERE, 5.0, noted.update)
    sglang.faults["/continue_generation"] = (500, "broken")
    with pytest.raises(DriverError):
        resume(spec(sglang), HERE, 5.0, ResumeState(released=noted["released"]), noted.update)
    del sglang.faults["/continue_generation"]
    resume(spec(sglang), HERE, 5.0, ResumeState(released=noted["released"]), noted.update)

    assert (noted["released"], sglang.dead) == (False, False)


def test_weights_that_could_not_be_loaded_again_are_loaded_by_the_undo(sglang: FakeSglang) -> None:
    """The memory is back, its content is not: neither is it taken back once more, nor is rubbish served."""
    sglang.arguments["enable_weights_cpu_backup"] = False
    replica, noted = spec(sglang, reload_from="/models/m"), dict[str, Any]()
    quiesce(replica, HERE, 5.0, noted.update)
    sglang.faults["/update_weights_from_disk"] = (400, "no such file")
    for _ in range(2):
        with pytest.raises(DriverError, match="no such file"):
            resume(replica, HERE, 5.0, ResumeState(**noted), noted.update)
    assert (noted, sglang.paused) == ({"released": True, "memory_back": True}, True)

    del sglang.faults["/update_weights_from_disk"]
    resume(replica, HERE, 5.0, ResumeState(**noted), noted.update)
    assert (sglang.weights, sglang.paused, sglang.dead) == ("loaded from /models/m", False, False)
    resume(replica, HERE, 5.0, ResumeState(**noted), noted.update)
    assert (noted["released"], sglang.dead) == (False, False)


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("enable_memory_saver", "serve with --enable-memory-saver"),
        ("enable_weights_cpu_backup", "serve with --enable-weights-cpu-backup, or give reload_from in the spec"),
    ],
)
def test_what_would_lose_the_weights_is_refused_before_anything_is_touched(
    sglang: FakeSglang, missing: str, hint: str
) -> None:
    sglang.arguments[missing] = False
    with pytest.raises(DriverError) as caught:
        quiesce(spec(sglang), HERE, 5.0)

    assert (caught.value.reason, caught.value.hint) == (Reason.QUIESCE_FAILED, hint)
    assert sglang.asked == ["GET /server_info"]


def test_weights_without_a_copy_are_loaded_again(sglang: FakeSglang) -> None:
    sglang.arguments["enable_weights_cpu_backup"] = False
    replica = spec(sglang, reload_from="/models/m")
    quiesce(replica, HERE, 5.0)
    resume(replica, HERE, 5.0)

    assert sglang.weights == "loaded from /models/m"


def test_a_server_that_tells_no_arguments_is_refused(sglang: FakeSglang) -> None:
    sglang.faults["/server_info"] = (503, "starting")
    with pytest.raises(DriverError, match="answered 503 without its arguments: starting"):
        quiesce(spec(sglang), HERE, 5.0)


def test_a_failed_resume_names_it(sglang: FakeSglang) -> None:
    with pytest.raises(DriverError) as caught:
        resume(spec(sglang), HERE, 5.0)

    assert caught.value.reason is Reason.RESUME_FAILED
    assert f"POST {sglang.base_url}/resume_memory_occupation answered 500" in caught.value.detail
