"""vLLM put to sleep and woken: what is asked of it, in which order, and what each refusal becomes."""

from __future__ import annotations

import pytest

from restore_driver.engines import quiesce, resume
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.replica_spec import VllmEngine
from tests.restore_driver.engines.fake_engines import HERE, FakeVllm


def spec(vllm: FakeVllm, level: int = 1) -> VllmEngine:
    return VllmEngine.model_validate({"kind": "vllm", "base_url": vllm.base_url, "level": level})


def test_level_1_sleeps_and_wakes(vllm: FakeVllm) -> None:
    rested = quiesce(spec(vllm), HERE, 5.0)
    assert (vllm.asleep, vllm.weights) == ({"weights", "kv_cache"}, "in host memory")
    woken = resume(spec(vllm), HERE, 5.0)

    assert rested == {"engine": "vllm", "level": 1, "slept_before": False, "looks_for_idle": 1}
    assert woken == {"engine": "vllm", "level": 1, "slept": True}
    assert (vllm.asleep, vllm.weights) == (set(), "loaded")
    assert vllm.asked == [
        "GET /is_sleeping",
        "GET /metrics",
        "POST /sleep?level=1&mode=wait",
        "GET /is_sleeping",
        "GET /is_sleeping",
        "POST /wake_up",
        "GET /is_sleeping",
    ]


def test_level_2_loads_its_weights_between_the_wakes(vllm: FakeVllm) -> None:
    quiesce(spec(vllm, 2), HERE, 5.0)
    assert vllm.weights == "dropped"
    vllm.asked.clear()
    resume(spec(vllm, 2), HERE, 5.0)

    assert vllm.weights == "loaded"
    assert vllm.asked == [
        "GET /is_sleeping",
        "POST /wake_up?tags=weights",
        "POST /collective_rpc",
        "POST /wake_up?tags=kv_cache",
        "GET /is_sleeping",
        "GET /is_sleeping",
    ]


def test_running_requests_are_waited_for(vllm: FakeVllm) -> None:
    vllm.running = [2, 1]
    facts = quiesce(spec(vllm), HERE, 5.0)

    assert facts["looks_for_idle"] == 3
    assert vllm.asked[1:5] == ["GET /metrics", "GET /metrics", "GET /metrics", "POST /sleep?level=1&mode=wait"]


def test_running_requests_are_aborted_where_the_spec_says_so(vllm: FakeVllm) -> None:
    vllm.running = [2, 1]
    quiesce(spec(vllm).model_copy(update={"running_requests": "abort"}), HERE, 5.0)

    assert vllm.asked[1] == "POST /sleep?level=1&mode=abort"


def test_requests_that_never_end_end_at_the_deadline(vllm: FakeVllm) -> None:
    vllm.running = [1] * 10_000
    with pytest.raises(DriverError) as caught:
        quiesce(spec(vllm), HERE, 0.2)

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert vllm.asleep == set()


def test_both_ways_may_be_repeated(vllm: FakeVllm) -> None:
    assert resume(spec(vllm), HERE, 5.0)["slept"] is False
    quiesce(spec(vllm), HERE, 5.0)
    assert quiesce(spec(vllm), HERE, 5.0)["slept_before"] is True
    resume(spec(vllm), HERE, 5.0)
    assert resume(spec(vllm), HERE, 5.0)["slept"] is False


def test_an_engine_that_is_only_paused_is_still_put_to_sleep(vllm: FakeVllm) -> None:
    """`/is_sleeping` says yes of it, and its weights are on the GPU."""
    vllm.paused = True
    quiesce(spec(vllm), HERE, 5.0)
    assert (vllm.asleep, vllm.weights) == ({"weights", "kv_cache"}, "in host memory")
    resume(spec(vllm), HERE, 5.0)
    assert (vllm.asleep, vllm.paused) == (set(), False)


def test_without_dev_mode_the_hint_names_it(vllm: FakeVllm) -> None:
    vllm.dev_mode = False
    with pytest.raises(DriverError) as caught:
        quiesce(spec(vllm), HERE, 5.0)

    assert (caught.value.reason, caught.value.hint) == (
        Reason.QUIESCE_FAILED,
        "serve with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1",
    )


def test_a_server_that_still_loads_is_no_sleeper(vllm: FakeVllm) -> None:
    vllm.faults["/is_sleeping"] = (503, "loading")
    with pytest.raises(DriverError) as caught:
        quiesce(spec(vllm), HERE, 5.0)

    assert caught.value.detail == f"GET {vllm.base_url}/is_sleeping answered 503: loading"


@pytest.mark.parametrize(("way", "reason"), [("sleep", Reason.QUIESCE_FAILED), ("wake_up", Reason.RESUME_FAILED)])
def test_a_refusal_names_url_status_and_body(vllm: FakeVllm, way: str, reason: Reason) -> None:
    if way == "wake_up":
        quiesce(spec(vllm), HERE, 5.0)
    vllm.faults[f"/{way}"] = (500, "EngineDeadError " + "x" * 1000)
    with pytest.raises(DriverError) as caught:
        (quiesce if way == "sleep" else resume)(spec(vllm), HERE, 5.0)

    assert caught.value.reason is reason
    assert f"{vllm.base_url}/{way}" in caught.value.detail
    assert "answered 500, not 200: EngineDeadError xxx" in caught.value.detail
    assert len(caught.value.detail) < 400


def test_reported_sleep_without_freed_memory_is_refused(vllm: FakeVllm) -> None:
    """It answers 200 while the engine is dying (vllm#45520), or was never enabled."""
    vllm.sleep_works = False
    with pytest.raises(DriverError, match="is_sleeping says no after /sleep"):
        quiesce(spec(vllm), HERE, 5.0)


def test_a_hang_ends_at_the_deadline(vllm: FakeVllm) -> None:
    vllm.hang.add("/sleep")
    with pytest.raises(DriverError) as caught:
        quiesce(spec(vllm), HERE, 0.3)

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert f"POST {vllm.base_url}/sleep" in caught.value.detail
