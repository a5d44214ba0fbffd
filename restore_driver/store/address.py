"""Parse addresses of stores (`/mnt/snapshots`, `file:///mnt/snapshots`, `s3://bucket/prefix`) and of snapshots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from restore_driver.errors import DriverError, Reason
from restore_driver.store.backend import Backend

PATIENCE_S = 30.0
"""Give up on a store after so long without an answer: the restart of a server should not cost a transfer."""


@dataclass(frozen=True)
class Access:
    """Settings for reaching an object store, beside those of the environment (AWS_*)."""

    endpoint: str | None = None
    allow_http: bool = False
    patience_s: float = PATIENCE_S


def local_path(url: str) -> Path | None:
    """Return the directory of a store's URL; None for another kind of store.

    Raises:
        DriverError: REQUEST_INVALID for a file URL with a host.
    """
    if url.startswith("file:"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise DriverError(
                Reason.REQUEST_INVALID, f"{url!r} is not a file URL of this machine", "file:///PATH, or /PATH"
            )
        return Path(unquote(parts.path))
    return None if "://" in url else Path(url)


def open_store(url: str, access: Access) -> Backend:
    """Return the backend of a store's URL without contacting it.

    Raises:
        DriverError: REQUEST_INVALID for another scheme, or for an endpoint without TLS.
    """
    from restore_driver.store.local import LocalBackend
    from restore_driver.store.objects import ObjectBackend

    path = local_path(url)
    if path is not None:
        return LocalBackend(path)
    if not re.match(r"s3a?://[^/]+", url):
        raise DriverError(
            Reason.REQUEST_INVALID, f"{url!r} is not a store", "give /PATH, file:///PATH or s3://BUCKET/PREFIX"
        )
    return ObjectBackend(url, endpoint=access.endpoint, allow_http=access.allow_http, patience_s=access.patience_s)


def split_snapshot(text: str) -> tuple[str, str, str | None]:
    """Split `STORE/NAME[/DIGEST]` into store, name and digest; a last part of 16 to 64 hex digits is a digest.

    Raises:
        DriverError: REQUEST_INVALID when a part is missing.
    """
    parts = text.rstrip("/").split("/")
    digest = parts.pop() if len(parts) > 2 and re.fullmatch(r"[0-9a-f]{16,64}", parts[-1]) else None
    name = parts.pop()
    store = "/".join(parts)
    if not store or not name or re.fullmatch(r"[a-z0-9]+:/{0,2}", store):
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"{text!r} does not name a snapshot of a store",
            "give STORE/NAME or STORE/NAME/DIGEST",
        )
    return store, name, digest
