"""Fields that all protocols between the driver's processes share: the serialised form of an error, and the version.

Standard library only, like `jsonlines`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Message

VERSION = "version"
"""Name of the field that carries a protocol's version, an integer, in each request."""


def dump_error(error: DriverError) -> dict[str, str]:
    """Return `{"reason", "detail", "hint"}`: the serialised form of a `DriverError` in every protocol."""
    return {"reason": error.reason.value, "detail": error.detail, "hint": error.hint}


def load_error(dumped: Any) -> DriverError:
    """Return the error of its serialised form.

    Another release may know other reasons, and a peer may send anything: what is not of the form becomes INTERNAL with
    its text, so that an error is never lost to its own form.
    """
    if not isinstance(dumped, Mapping):
        return DriverError(Reason.INTERNAL, f"an error without its form: {dumped!r:.200}")
    name, detail, hint = (str(dumped.get(key, "")) for key in ("reason", "detail", "hint"))
    try:
        return DriverError(Reason(name), detail, hint)
    except ValueError:
        return DriverError(Reason.INTERNAL, f"{name or 'no reason'}: {detail}", hint)


def error_message(error: DriverError) -> Message:
    """Return the message that answers a request with an error."""
    return {"error": dump_error(error)}


def raise_error(message: Mapping[str, Any]) -> None:
    """Raise the error of an answer, if it is one.

    Raises:
        DriverError: as it was sent.
    """
    if "error" in message:
        raise load_error(message["error"])


def require_version(message: Mapping[str, Any], spoken: int, protocol: str) -> None:
    """Refuse a message of another version than `spoken`, or of none.

    Raises:
        DriverError: REQUEST_INVALID naming protocol and both versions.
    """
    version = message.get(VERSION)
    if type(version) is not int or version != spoken:
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"version {version!r:.100} of the {protocol} protocol is not known, version {spoken} is",
            "use both sides of one release",
        )
