"""The agent's protocol: one JSON object a line (`host/jsonlines.py`), at most `limits.LONGEST_LINE_BYTES` long.

client: one request (`wire.requests.AnyRequest`, selected by `do`), or {"do": "status", "api_version": ...}
agent:  {"event": "begin" | "end" | "undo", "phase": ...}   while the attempt runs
        {"result": {...}}                                    once and last; then the agent closes the connection
        {"error": {"reason", "detail", "hint"}}              instead, for an invalid request

Requests carry the API version (`wire/version.py`); another one is refused by its name. One that is left out is that of
the agent.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from restore_driver.wire.version import API_VERSION, ApiVersion


class StatusRequest(BaseModel):
    """Report the agent's PID, its tools and its running attempts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["status"] = "status"
    api_version: ApiVersion = API_VERSION
