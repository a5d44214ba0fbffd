"""The codec of all protocols: any split of a stream gives the same messages, and what is no message is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_driver.errors import DriverError, Reason
from restore_driver.host.jsonlines import Decoder, decode, encode
from restore_driver.host.messages import dump_error, load_error, raise_error, require_version

LONGEST_BYTES = 200
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=5)
LINES = st.one_of(
    MESSAGES.map(lambda message: json.dumps(message).encode()),
    st.binary(max_size=2 * LONGEST_BYTES).filter(lambda line: b"\n" not in line),
)


def outcomes(chunks: Iterable[bytes], longest_bytes: int = LONGEST_BYTES) -> list[Any]:
    """Everything that a stream gives: its messages, and the error that ends it."""
    decoder, found = Decoder(longest_bytes), list[Any]()
    try:
        for chunk in chunks:
            decoder.feed(chunk)
            while (message := decoder.next_message()) is not None:
                found.append(message)
    except DriverError as error:
        found.append((error.reason, error.detail))
    return found


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(places)]


@given(messages=st.lists(MESSAGES, max_size=6), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_a_stream_gives_the_messages_that_were_sent(
    messages: list[dict[str, Any]], cuts: list[int]
) -> None:
    stream = b"".join(encode(message) for message in messages)

    assert outcomes(split(stream, cuts), longest_bytes=1 << 20) == messages


@given(
    lines=st.lists(LINES, max_size=6), rest=st.binary(max_size=20), cuts=st.lists(st.integers(0, 10_000), max_size=9)
)
def test_any_split_of_any_stream_gives_the_same_messages_and_the_same_error(
    lines: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    """Also where a line is garbage or too long, and what follows it."""
    stream = b"".join(line + b"\n" for line in lines) + rest

    assert outcomes(split(stream, cuts)) == outcomes([stream]) == outcomes(bytes([byte]) for byte in stream)


@given(message=MESSAGES)
def test_a_message_survives_encoding(message: dict[str, Any]) -> None:
    line = encode(message)

    assert decode(line) == message
    assert line.isascii() and line.count(b"\n") == 1 and line.endswith(b"\n")


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff{}", "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        (b'{"x": {"a": 1, "a": 1}}', "the key 'a' is there twice"),
    ],
)
def test_lines_that_are_no_message_are_refused(line: bytes, detail: str) -> None:
    with pytest.raises(DriverError) as refused:
        decode(line)

    assert (refused.value.reason, detail in refused.value.detail) == (Reason.REQUEST_INVALID, True), refused.value


def test_the_longest_line_is_accepted_and_a_longer_one_refused_before_its_end() -> None:
    longest = b'{"a": 1}'.ljust(LONGEST_BYTES)
    refusal = [(Reason.REQUEST_INVALID, "a line is longer than 200 bytes")]

    assert outcomes([longest, b"\n"]) == [{"a": 1}]
    assert outcomes([longest + b" "]) == refusal
    assert outcomes([longest + b" \n"]) == refusal


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes"])
def test_values_that_json_cannot_express_are_not_sent(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode({"value": value})


@given(
    error=st.builds(DriverError, st.sampled_from(Reason), st.text(max_size=30), st.text(max_size=30)),
)
def test_an_error_survives_its_serialised_form(error: DriverError) -> None:
    dumped = decode(encode(dump_error(error)))
    loaded = load_error(dumped)

    assert set(dumped) == {"reason", "detail", "hint"}
    assert (loaded.reason, loaded.detail, loaded.hint) == (error.reason, error.detail, error.hint)


@given(dumped=VALUES)
def test_any_form_of_an_error_is_loaded_as_one(dumped: Any) -> None:
    """A peer of another release, or with a defect: its error must not vanish in an error of its form."""
    assert isinstance(load_error(dumped), DriverError)
    with pytest.raises(DriverError):
        raise_error({"error": dumped})


def test_a_reason_of_another_release_is_kept_as_text() -> None:
    error = load_error({"reason": "GpuOnFire", "detail": "it burns", "hint": "run"})

    assert (error.reason, error.detail, error.hint) == (Reason.INTERNAL, "GpuOnFire: it burns", "run")


@pytest.mark.parametrize("message", [{}, {"version": 2}, {"version": "1"}, {"version": None}, {"version": True}])
def test_another_version_is_refused_by_name(message: dict[str, Any]) -> None:
    with pytest.raises(DriverError) as refused:
        require_version(message, 1, "tea")

    assert refused.value.detail == (
        f"version {message.get('version')!r} of the tea protocol is not known, version 1 is"
    )
    require_version({"version": 1}, 1, "tea")
