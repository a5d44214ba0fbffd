"""SGLang's memory saver: `/release_memory_occupation` and `/resume_memory_occupation`.

What is relied on, from SGLang's own pages and the sources of 0.5.23:

- The memory saver needs `--enable-memory-saver` (docs/advanced_features/sglang_for_rl.md); without it the calls do
  nothing. A release drops the weights' contents unless the server runs with `--enable-weights-cpu-backup`
  (docs/advanced_features/server_arguments.md, sglang#6367); else they are loaded again by
  `/update_weights_from_disk`. Both flags are read from the server (`/server_info`, formerly `/get_server_info`) before
  anything is touched.
- A release asserts that no request is there (same page), in the scheduler, which dies of it. `/flush_cache` answers
  400 while one runs or waits and does nothing then, so it is what we wait on; `/pause_generation` in mode `abort`
  holds newcomers in the tokenizer manager after that, and ends the few that slipped between. Modes `retract` and
  `in_place` keep requests in the scheduler, where the assertion sees them.
- A resume of what was not released kills the scheduler too (`offload_tags.remove`, weight_updater.py),
  and no endpoint tells the state: hence `Note`, `ResumeState.released` and `ResumeState.memory_back`.
- Servers without `/pause_generation` answer 404; they are quiesced without it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from restore_driver.deadline import Deadline
from restore_driver.engines.hooks import HookDetails, Note, ProcessRoot, ResumeState
from restore_driver.engines.http import PAUSE_S, HttpResponse, call, exchange
from restore_driver.errors import DriverError, Reason
from restore_driver.wire.replica_spec import HttpCall, SglangEngine

_INFO_PATHS = ("/server_info", "/get_server_info")


@dataclass(frozen=True)
class SglangHooks:
    """SGLang's memory saver as hooks."""

    spec: SglangEngine

    def quiesce(self, process: ProcessRoot, deadline_s: float, note: Note) -> HookDetails:
        """Wait until no request is there, hold new ones back, release GPU memory."""
        sglang = _Sglang(self.spec, process, Deadline.after("SGLang's way to rest", deadline_s), Reason.QUIESCE_FAILED)
        sglang.refuse_what_would_lose_weights()
        looks = sglang.wait_until_idle() if self.spec.running_requests == "wait" else 0
        paused = sglang.post_where_there("/pause_generation", {"mode": "abort"})
        looks += sglang.wait_until_idle()
        note({"released": True})
        sglang.post("/release_memory_occupation", {"tags": list(self.spec.tags)})
        return {"tags": list(self.spec.tags), "paused": paused, "looks_for_idle": looks}

    def resume(self, process: ProcessRoot, deadline_s: float, state: ResumeState, note: Note) -> HookDetails:
        """Take the memory back, reload the weights where the server kept no copy, and continue generation."""
        sglang = _Sglang(self.spec, process, Deadline.after("SGLang's waking", deadline_s), Reason.RESUME_FAILED)
        if state.released:
            if not state.memory_back:
                sglang.post("/resume_memory_occupation", {"tags": list(self.spec.tags)})
            if self.spec.reload_from is not None and "weights" in self.spec.tags:
                note({"memory_back": True})  # nor taken back once more by an undo, nor left without its content
                sglang.post("/update_weights_from_disk", {"model_path": self.spec.reload_from})
            note({"released": False})  # asked for once more, by an undo, the scheduler would die of it
        continued = sglang.post_where_there("/continue_generation", {})
        return {"tags": list(self.spec.tags), "released": state.released, "continued": continued}


class _Sglang:
    """Endpoints of one server, for one hook and its deadline."""

    def __init__(self, spec: SglangEngine, process: ProcessRoot, deadline: Deadline, reason: Reason) -> None:
        self._spec, self._process, self._deadline, self._reason = spec, process, deadline, reason

    def refuse_what_would_lose_weights(self) -> None:
        answer = self._info()
        try:
            info = answer.json()
            saver, backup = info["enable_memory_saver"], info.get("enable_weights_cpu_backup", False)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DriverError(
                self._reason, f"{self._spec.base_url} answered {answer.status} without its arguments: {answer.shown}"
            ) from None
        if not saver:
            raise DriverError(
                self._reason, f"{self._spec.base_url} runs without its memory saver", "serve with --enable-memory-saver"
            )
        if "weights" in self._spec.tags and not backup and self._spec.reload_from is None:
            raise DriverError(
                self._reason,
                f"{self._spec.base_url} keeps no copy of its weights, a release would lose them",
                "serve with --enable-weights-cpu-backup, or give reload_from in the spec",
            )

    def wait_until_idle(self) -> int:
        """Poll, and return how often."""
        looks = 1
        while (answer := self._ask("POST", "/flush_cache", None)).status != 200:
            if answer.status != 400:
                raise self._refused("/flush_cache", answer)
            looks += 1
            time.sleep(min(PAUSE_S, self._deadline.left_s()))
        return looks

    def post(self, path: str, body: object) -> None:
        call(self._request("POST", path, body), self._process, self._deadline.left_s(), self._reason)

    def post_where_there(self, path: str, body: object) -> bool:
        """Post, and return False if the server lacks the endpoint; raise for any other refusal."""
        answer = self._ask("POST", path, body)
        if answer.status not in (200, 404):
            raise self._refused(path, answer)
        return answer.status == 200

    def _info(self) -> HttpResponse:
        for path in _INFO_PATHS:
            answer = self._ask("GET", path, None)
            if answer.status != 404:
                break
        return answer

    def _refused(self, path: str, answer: HttpResponse) -> DriverError:
        return DriverError(
            self._reason, f"POST {self._spec.base_url}{path} answered {answer.status}, not 200: {answer.shown}"
        )

    def _ask(self, method: str, path: str, body: object) -> HttpResponse:
        return exchange(self._request(method, path, body), self._process, self._deadline.left_s(), self._reason)

    def _request(self, method: str, path: str, body: object) -> HttpCall:
        url = self._spec.base_url + path
        return HttpCall.model_validate(
            {"method": method, "url": url, "body": body, "api_key_file": self._spec.api_key_file}
        )
