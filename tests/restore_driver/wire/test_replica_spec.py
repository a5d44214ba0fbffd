"""Specs as people write them, and the error of each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from restore_driver.errors import DriverError, Reason
from restore_driver.spec_file import load_replica_spec
from restore_driver.wire.replica_spec import (
    HttpCall,
    KnownRequest,
    NoEngine,
    NumbersWithin,
    ReplicaSpec,
    SameAsBefore,
    VllmEngine,
)

EXAMPLE = Path(__file__).parents[3] / "examples" / "counter_server.toml"
VLLM = """
[engine]
kind = "vllm"
level = 2
[[proof.requests]]
call = { method = "POST", url = "http://127.0.0.1:8000/v1/completions", body = { prompt = "1 2 3", temperature = 0 } }
expect = { kind = "same_as_before", pointers = ["/choices/0/text"] }
"""


def test_the_example_is_whole() -> None:
    spec = load_replica_spec(EXAMPLE)
    assert spec.engine == NoEngine()
    assert [known.call.url for known in spec.proof.requests] == [
        "http://127.0.0.1:8080/count",
        "http://127.0.0.1:8080/state",
    ]


def test_toml_and_json_are_one(tmp_path: Path) -> None:
    toml, json = tmp_path / "spec.toml", tmp_path / "spec.json"
    toml.write_text(VLLM)
    spec = load_replica_spec(toml)
    json.write_text(spec.model_dump_json())

    assert load_replica_spec(json) == spec
    assert spec.engine == VllmEngine(kind="vllm", level=2)
    assert spec.proof.requests[0].expect == SameAsBefore(pointers=("/choices/0/text",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[engine]\nkind = "vlm"\n', "engine is {'kind': 'vlm'}: Input tag 'vlm'"),
        (VLLM.replace("level = 2", "level = 3"), "engine.vllm.level is 3: Input should be 1 or 2"),
        (VLLM.replace("http:", "https:"), "proof.requests.0.call.url is 'https://"),
        (VLLM.replace("/choices", "choices"), "proof.requests.0.expect.same_as_before.pointers.0 is 'choices/0/text'"),
        ("[engin]\n", "engin is {}: Extra inputs are not permitted"),
        ('[engine]\nkind = "vllm"\n', "engine vllm has nothing that proves it: give a known request"),
        ("[engine\n", "Expected ']'"),
        ('[engine]\nkind="inprocess"\nsocket="/s"\nmodels=["m"]\n', "models are named, and no holder"),
    ],
)
def test_each_mistake_names_file_field_and_value(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(DriverError) as caught:
        load_replica_spec(path)

    assert caught.value.reason is Reason.REQUEST_INVALID
    assert caught.value.detail.startswith(f"{path}: ")
    assert said in caught.value.detail
    assert caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="No such file or directory"):
        load_replica_spec(tmp_path / "none.toml")


@pytest.mark.parametrize("engine", [{"kind": "none"}, {"kind": "inprocess", "socket": "/run/s"}])
def test_these_are_proven_without_requests(engine: dict[str, Any]) -> None:
    assert ReplicaSpec.model_validate({"engine": engine}).proof.requests == ()


def test_an_in_process_engine_without_a_digest_needs_a_request() -> None:
    with pytest.raises(ValidationError, match="nothing that proves it"):
        ReplicaSpec.model_validate(
            {"engine": {"kind": "inprocess", "socket": "/run/s"}, "proof": {"weights_digest": False}}
        )


names = st.sampled_from(["a", "b-c", "d/e"])
values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
calls = st.builds(
    HttpCall,
    method=st.sampled_from(["GET", "POST"]),
    url=names.map(lambda name: f"http://h/{name}"),
    headers=st.dictionaries(names, names, max_size=2),
    body=values,
    status=st.integers(100, 599),
)
expectations = st.builds(
    SameAsBefore, pointers=st.lists(names.map(lambda n: "/" + n), max_size=2).map(tuple)
) | st.builds(NumbersWithin, kind=st.just("numbers_within"), pointers=st.just(("/x",)), factor=st.floats(1.0, 10.0))


@given(st.lists(st.builds(KnownRequest, call=calls, expect=expectations), max_size=3))
def test_a_spec_comes_back_from_the_manifest_as_it_was(requests: list[KnownRequest]) -> None:
    spec = ReplicaSpec.model_validate({"proof": {"requests": [request.model_dump() for request in requests]}})
    assert ReplicaSpec.model_validate_json(spec.model_dump_json()) == spec
