"""Parsing of sizes, durations, and addresses of stores and snapshots."""

from __future__ import annotations

from pathlib import Path

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.store.address import Access, local_path, open_store, split_snapshot
from restore_driver.store.units import format_bytes, parse_bytes, parse_duration_s

HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("200M", 200_000_000),
        ("1.5G", 1_500_000_000),
        ("64Mi", 64 << 20),
        ("2GB/s", 2 * 10**9),
    ],
)
def test_sizes_with_units_are_parsed_to_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text, "--quota") == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90.0), ("90s", 90.0), ("30m", 1800.0), ("24h", 86400.0), ("7d", 604800.0)]
)
def test_durations_with_units_are_parsed_to_seconds(text: str, expected: float) -> None:
    assert parse_duration_s(text, "--max-age") == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "M", "5X", "1,5G", "inf", "nan", "1e9"])
def test_an_invalid_amount_is_refused_with_option_and_value(text: str) -> None:
    for parse in (parse_bytes, parse_duration_s):
        with pytest.raises(DriverError) as caught:
            parse(text, "--quota")

        assert caught.value.reason is Reason.REQUEST_INVALID
        assert f"--quota {text!r}" in caught.value.detail and caught.value.hint


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 B"), (999, "999 B"), (1530, "1.53 kB"), (42.2e6, "42.2 MB"), (1.5e12, "1.5 TB")]
)
def test_sizes_are_formatted_with_three_digits_and_a_unit(number: float, expected: str) -> None:
    assert format_bytes(number) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mnt/s/llama", ("/mnt/s", "llama", None)),
        (f"/mnt/s/llama/{HEX}", ("/mnt/s", "llama", HEX)),
        ("s3://bucket/llama", ("s3://bucket", "llama", None)),
        (f"s3://bucket/pre/fix/llama/{HEX}/", ("s3://bucket/pre/fix", "llama", HEX)),
        ("file:///mnt/s/llama", ("file:///mnt/s", "llama", None)),
    ],
)
def test_an_address_is_split_into_store_name_and_digest(text: str, expected: tuple[str, str, str | None]) -> None:
    assert split_snapshot(text) == expected


@pytest.mark.parametrize("text", ["llama", "/llama", "s3://llama", "s3:///llama", ""])
def test_an_address_without_store_or_name_is_refused(text: str) -> None:
    with pytest.raises(DriverError) as caught:
        split_snapshot(text)

    assert caught.value.reason is Reason.REQUEST_INVALID


def test_local_paths_are_recognised_and_other_schemes_refused() -> None:
    assert local_path("file:///mnt/my%20store") == Path("/mnt/my store")
    assert local_path("/mnt/store") == Path("/mnt/store")
    assert local_path("s3://bucket") is None
    for url in ("gs://bucket/x", "s3://", "http://host/x", "file://host/x"):
        with pytest.raises(DriverError) as caught:
            open_store(url, Access())

        assert caught.value.reason is Reason.REQUEST_INVALID and url in caught.value.detail
