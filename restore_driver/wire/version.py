"""The API version that every request and every result carries.

A driver accepts exactly the version that it speaks: a field that it does not know could be the one that made the
request safe. Within a version a field may be added only with a default that keeps the behaviour of before.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from restore_driver.wire.api_version import API_VERSION

__all__ = ["API_VERSION", "ApiVersion", "refuse_unknown_version"]


def refuse_unknown_version(version: str) -> str:
    """Return `version` unchanged if this release speaks it.

    Raises:
        PydanticCustomError: type `unknown_api_version`, naming both versions, with a `hint` in its context.
    """
    if version != API_VERSION:
        raise PydanticCustomError(
            "unknown_api_version",
            "this driver speaks API version {spoken}",
            {"spoken": API_VERSION, "hint": f"use client and driver of one release, or send {API_VERSION}"},
        )
    return version


ApiVersion = Annotated[str, AfterValidator(refuse_unknown_version)]
