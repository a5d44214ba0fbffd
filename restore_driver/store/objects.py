"""A store in an object store with the S3 protocol, through `obstore`.

One object a file, written by a multipart upload that is completed once all parts are sent: an object is whole or
absent. Objects cannot be renamed, so the manifest, written last, publishes a snapshot. Credentials, region and endpoint
come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...).

obstore retries single requests within the store's patience. Parts of interrupted uploads stay in the store, where only
a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from restore_driver.errors import DriverError, Reason
from restore_driver.store.backend import StoredObject, Write, manifest_of, missing, place_in

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3Store

_SMALLEST_PART_BYTES = 8 << 20
_MOST_PARTS = 9000
"""S3 allows 10,000."""
_PARTS_AT_ONCE = 4
_CHUNK_BYTES = 256 << 10
"""Bytes between two calls of the bandwidth limit."""
_RETRIES = 4
"""Retries of one request, after 0.1 to 1 s each; a store that is down is reported within two seconds."""


class ObjectBackend:
    """A `Backend` at `s3://bucket/prefix`."""

    def __init__(self, url: str, *, endpoint: str | None, allow_http: bool, patience_s: float) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        self.url = url.rstrip("/")
        allow_http = allow_http or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
        there = endpoint or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT", "")
        if there.startswith("http://") and not allow_http:
            raise DriverError(
                Reason.REQUEST_INVALID,
                f"endpoint {there} has no TLS: the memory of your processes would be sent unencrypted",
                "give an https endpoint, or --allow-http",
            )
        try:
            self._store: S3Store = S3Store.from_url(
                self.url,
                config={} if endpoint is None else {"endpoint": endpoint},
                client_options={
                    "allow_http": allow_http,
                    "timeout": timedelta(days=1),  # for a whole body, which a bandwidth limit may slow down
                    "read_timeout": timedelta(seconds=patience_s),
                    "connect_timeout": timedelta(seconds=min(5.0, patience_s)),
                },
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": timedelta(seconds=patience_s),
                    "backoff": {"max_backoff": timedelta(seconds=1)},
                },
            )
        except (BaseError, ValueError) as error:
            raise DriverError(Reason.REQUEST_INVALID, f"{url}: {_first_line(error)}", "see docs/storage.md") from error

    def walk(self, prefix: str = "") -> Iterator[StoredObject]:
        """See `Backend`."""
        import obstore

        with self._translated(prefix):
            for batch in obstore.list(self._store, prefix or None, chunk_size=1000):
                for found in batch:
                    yield StoredObject(found["path"], found["size"], found["last_modified"].timestamp())

    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `Backend`."""
        import obstore

        if end is not None and end <= start:
            return
        with self._translated(name):
            options: GetOptions = {}
            if end is not None:
                options = {"range": (start, end)}
            elif start:
                options = {"range": {"offset": start}}
            result = obstore.get(self._store, name, options=options)
            for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)

    @contextmanager
    def write(self, name: str, size_bytes: int) -> Iterator[Write]:
        """See `Backend`."""
        import obstore

        with self._translated(name):
            writer = obstore.open_writer(
                self._store,
                name,
                buffer_size=max(_SMALLEST_PART_BYTES, -(-size_bytes // _MOST_PARTS)),
                max_concurrency=_PARTS_AT_ONCE,
            )
            yield lambda content: _all_of(writer.write(content), content)
            writer.close()  # only on success: an upload that is not closed is never completed

    def remove(self, name: str) -> None:
        """See `Backend`."""
        self._remove_all([name])

    @contextmanager
    def uploading(self, place: str) -> Iterator[str]:
        """See `Backend`; there are no locks here, and two pushes of one snapshot write the same bytes."""
        yield place

    def publish(self, place: str, manifest: bytes) -> None:
        """See `Backend`."""
        with self.write(manifest_of(place), len(manifest)) as write:
            write(manifest)

    @contextmanager
    def reading(self, place: str) -> Iterator[None]:
        """See `Backend`; there are no locks here: a reader of a removed snapshot finds an object missing."""
        yield

    def is_locked(self, place: str) -> bool:
        """See `Backend`."""
        return False

    def retire(self, place: str) -> None:
        """See `Backend`."""
        self.remove(manifest_of(place))
        self._remove_all([found.name for found in self.walk(place)])

    def sweep(self, before_unix_s: float, *, dry_run: bool) -> tuple[str, ...]:
        """See `Backend`."""
        found: dict[str, list[StoredObject]] = {}
        for each in self.walk():
            if (place := place_in(each.name)) is not None:
                found.setdefault(place, []).append(each)
        swept = []
        for place, objects in found.items():
            names = [each.name for each in objects]
            if manifest_of(place) in names or max(each.modified_unix_s for each in objects) >= before_unix_s:
                continue
            if not dry_run:
                self._remove_all(names)
            swept.append(place)
        return tuple(sorted(swept))

    def _remove_all(self, names: list[str]) -> None:
        import obstore

        with self._translated(names[0] if names else ""):
            for at in range(0, len(names), 1000):
                obstore.delete(self._store, names[at : at + 1000])

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            raise missing(f"{self.url}/{name}") from error
        except BaseError as error:
            raise DriverError(
                Reason.STORE_UNREACHABLE,
                f"{self.url}: {_first_line(error)}",
                "look at the endpoint, the bucket and the credentials (AWS_*)",
            ) from error


def _all_of(written: int, content: bytes) -> None:
    if written != len(content):
        raise DriverError(Reason.INTERNAL, f"{written} of {len(content)} bytes were accepted")


def _first_line(error: Exception) -> str:
    """Return the first line of an error, with code and message of the server's XML if there is one."""
    text = str(error)
    first = text.splitlines()[0].partition("<?xml")[0].rstrip(": ")[:300]
    code, message = (re.search(f"<{tag}>([^<]{{1,200}})</{tag}>", text) for tag in ("Code", "Message"))
    return f"{first}: {code[1]}, {message[1]}" if code and message else first
