"""vLLM's sleep mode: `/sleep`, `/is_sleeping`, `/wake_up`.

What is relied on, from vLLM's own pages and threads, and the sources of 0.32.0:

- The endpoints exist only with VLLM_SERVER_DEV_MODE=1, and sleep frees memory only with `--enable-sleep-mode`; they
  are not meant for users, so keep them within the pod (docs/features/sleep_mode.md).
- Level 1 keeps the weights in host memory and drops the KV cache. Level 2 drops both; waking is then `/wake_up` with
  tags=weights, `/collective_rpc` with `reload_weights`, `/wake_up` with tags=kv_cache (same page).
- `/is_sleeping` says yes until every tag is awake, and also while scheduling is merely paused, so it cannot show that
  nothing is left to do; sleeping twice and waking what is awake do nothing (v1/engine/core.py, v1/executor).
- `/sleep` under running requests killed the engine in versions without pause modes (vllm#15483, vllm#45520); later
  ones take `mode=wait` and drain, by default they abort (vllm#34528). Older ones ignore the parameter. So we wait for
  `vllm:num_requests_running` and `..._waiting` to reach 0 first, and drain besides.
- It can answer 200 while the engine is dying (vllm#45520): hence the look at `/is_sleeping` after it.
- `POST /weight_checker` with {"action": "checksum"} answers digests of all weights in later versions: a known request
  for a proof, where its seconds are worth it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from restore_driver.deadline import Deadline
from restore_driver.engines.hooks import HookDetails, Note, ProcessRoot, ResumeState
from restore_driver.engines.http import PAUSE_S, HttpResponse, call, exchange
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.replica_spec import HttpCall, VllmEngine

_UNFINISHED = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)", re.MULTILINE)
_HINT = "serve with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1"


@dataclass(frozen=True)
class VllmHooks:
    """vLLM's sleep mode as hooks."""

    spec: VllmEngine

    def quiesce(self, process: ProcessRoot, deadline_s: float, note: Note) -> HookDetails:
        """Wait until no request runs or waits, put the engine to sleep, and check that it sleeps."""
        vllm = _Vllm(self.spec, process, Deadline.after("vLLM's way to sleep", deadline_s), Reason.QUIESCE_FAILED)
        slept_before = vllm.sleeps()
        looks = vllm.wait_until_idle() if self.spec.running_requests == "wait" else 0
        vllm.post(f"/sleep?level={self.spec.level}&mode={self.spec.running_requests}")
        if not vllm.sleeps():
            raise DriverError(Reason.QUIESCE_FAILED, f"{self.spec.base_url}/is_sleeping says no after /sleep", _HINT)
        return {"level": self.spec.level, "slept_before": slept_before, "looks_for_idle": looks}

    def resume(self, process: ProcessRoot, deadline_s: float, state: ResumeState, note: Note) -> HookDetails:
        """Wake the engine; at level 2, reload its weights before its KV cache. Leave one that is awake alone."""
        vllm = _Vllm(self.spec, process, Deadline.after("vLLM's waking", deadline_s), Reason.RESUME_FAILED)
        if not vllm.sleeps():
            return {"level": self.spec.level, "slept": False}
        if self.spec.level == 2:
            vllm.post("/wake_up?tags=weights")
            vllm.post("/collective_rpc", {"method": "reload_weights"})
            vllm.post("/wake_up?tags=kv_cache")
        if self.spec.level == 1 or vllm.sleeps():
            vllm.post("/wake_up")
        if vllm.sleeps():
            raise DriverError(
                Reason.RESUME_FAILED, f"{self.spec.base_url}/is_sleeping says yes after /wake_up", "see its log"
            )
        return {"level": self.spec.level, "slept": True}


class _Vllm:
    """Endpoints of one server, for one hook and its deadline."""

    def __init__(self, spec: VllmEngine, process: ProcessRoot, deadline: Deadline, reason: Reason) -> None:
        self._spec, self._process, self._deadline, self._reason = spec, process, deadline, reason

    def post(self, path: str, body: object = None) -> HttpResponse:
        return call(self._request("POST", path, body), self._process, self._deadline.left_s(), self._reason)

    def sleeps(self) -> bool:
        answer = self._get("/is_sleeping")
        if answer.status == 404:
            raise DriverError(self._reason, f"{self._spec.base_url} has no /is_sleeping", _HINT)
        try:
            found = answer.json()["is_sleeping"]
        except (ValueError, KeyError, TypeError):
            found = None
        if answer.status != 200 or not isinstance(found, bool):
            raise DriverError(
                self._reason, f"GET {self._spec.base_url}/is_sleeping answered {answer.status}: {answer.shown}"
            )
        return found

    def wait_until_idle(self) -> int:
        """Poll, and return how often; a server without these metrics counts as idle, `mode=wait` drains it."""
        looks = 1
        while any(_positive(number) for number in _UNFINISHED.findall(self._get("/metrics").text)):
            looks += 1
            time.sleep(min(PAUSE_S, self._deadline.left_s()))
        return looks

    def _get(self, path: str) -> HttpResponse:
        return exchange(self._request("GET", path, None), self._process, self._deadline.left_s(), self._reason)

    def _request(self, method: str, path: str, body: object) -> HttpCall:
        url = self._spec.base_url + path
        return HttpCall.model_validate(
            {"method": method, "url": url, "body": body, "api_key_file": self._spec.api_key_file}
        )


def _positive(number: str) -> bool:
    try:
        return float(number) > 0.0
    except ValueError:
        return False
