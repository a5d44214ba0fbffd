"""Requests and results survive the wire unchanged; what another version or another schema sent is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from restore_driver.validation_errors import refused_request
from restore_driver.wire import replica_spec as spec
from restore_driver.wire.phase import Phase
from restore_driver.wire.reasons import Reason
from restore_driver.wire.requests import AnyRequest, CheckpointRequest, ParkRequest, RestoreRequest, UnparkRequest
from restore_driver.wire.result import PhaseTime, Result
from restore_driver.wire.version import API_VERSION

REQUEST: TypeAdapter[AnyRequest] = TypeAdapter(AnyRequest)

texts = st.text(max_size=8)
names = st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True)
paths = st.builds(lambda name: Path("/", name), names)
inside = st.builds(lambda name: f"/{name}", names)
seconds = st.floats(min_value=1e-3, max_value=1e6)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
pids = st.integers(2, 2**22)
holders = st.none() | paths
deadlines = st.dictionaries(st.sampled_from(sorted(phase.value for phase in Phase)), seconds, max_size=3)
many = st.lists(texts, max_size=3).map(tuple)

calls = st.builds(
    spec.HttpCall,
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    url=names.map(lambda name: f"http://127.0.0.1:8000/{name}"),
    headers=st.dictionaries(names, texts, max_size=2),
    api_key_file=st.none() | inside,
    body=json_values,
    status=st.integers(100, 599),
)
pointers = st.lists(inside, min_size=1, max_size=3).map(tuple)
expectations = st.one_of(
    st.builds(spec.SameAsBefore, pointers=pointers),
    st.builds(spec.ExactText, kind=st.just("text"), text=texts),
    st.builds(spec.JsonSubset, kind=st.just("json"), contains=st.dictionaries(texts, json_values, max_size=3)),
    st.builds(spec.Matches, kind=st.just("regex"), pattern=names),
    st.builds(spec.NumbersWithin, kind=st.just("numbers_within"), pointers=pointers, repeats=st.integers(2, 100)),
)
engines = st.one_of(
    st.builds(spec.NoEngine),
    st.builds(spec.VllmEngine, kind=st.just("vllm"), level=st.sampled_from([1, 2]), api_key_file=st.none() | inside),
    st.builds(spec.SglangEngine, kind=st.just("sglang"), reload_from=st.none() | texts),
    st.builds(
        spec.HttpEngine,
        kind=st.just("http"),
        idle=st.none() | calls,
        quiesce=st.tuples(calls),
        resume=st.tuples(calls, calls),
    ),
    st.builds(spec.ExecEngine, kind=st.just("exec"), quiesce=st.tuples(texts), resume=st.tuples(texts, texts)),
    st.builds(spec.InProcessEngine, kind=st.just("inprocess"), socket=inside, models=many, holder=inside),
)
proofs = st.builds(
    spec.ProofSpec,
    requests=st.tuples(st.builds(spec.KnownRequest, call=calls, expect=expectations)),
    weights_digest=st.booleans(),
)
replicas = st.builds(spec.ReplicaSpec, engine=engines, proof=proofs)

requests = st.one_of(
    st.builds(
        CheckpointRequest,
        pid=pids,
        artifact=paths,
        replica=replicas,
        leave_running=st.booleans(),
        compact=st.booleans(),
        image_digest=st.none() | texts,
        engine_arguments=many,
        gpus=many,
        holder=holders,
        deadlines_s=deadlines,
    ),
    st.builds(
        RestoreRequest,
        artifact=paths,
        placeholder_pid=pids,
        pod_uid=st.none() | names,
        gpus=many,
        holder=holders,
        image_digest=st.none() | texts,
        engine=st.none() | texts,
        engine_arguments=st.none() | many,
        restored_huge_pages=st.booleans(),
        verify=st.booleans(),
        deadlines_s=deadlines,
    ),
    st.builds(ParkRequest, pid=pids, replica=replicas, holder=holders, huge_pages=st.booleans(), deadlines_s=deadlines),
    st.builds(UnparkRequest, pid=pids, holder=holders, deadlines_s=deadlines),
)
results = st.builds(
    Result,
    sequence=names,
    outcome=names,
    reason=st.none() | st.sampled_from(Reason),
    detail=st.none() | texts,
    hint=st.none() | texts,
    phase=st.none() | names,
    fallback=st.none() | st.just("cold-start"),
    total_s=seconds,
    unaccounted_s=finite,
    phases=st.lists(
        st.builds(
            PhaseTime,
            phase=names,
            began_s=seconds,
            took_s=seconds,
            details=st.dictionaries(texts, json_values, max_size=3),
        ),
        max_size=3,
    ).map(tuple),
    undone=many,
    undo_errors=many,
    warnings=many,
    answer=st.dictionaries(texts, json_values, max_size=3),
)


def load(model: BaseModel, content: str) -> Any:
    return Result.model_validate_json(content) if isinstance(model, Result) else REQUEST.validate_json(content)


@given(model=requests | results)
def test_dumped_and_loaded_it_is_equal(model: BaseModel) -> None:
    assert load(model, model.model_dump_json()) == model


@given(model=requests | results)
def test_json_objects_round_trip_as_well(model: BaseModel) -> None:
    """The agent's socket carries `model_dump(mode="json")` through the json module."""
    assert load(model, json.dumps(model.model_dump(mode="json"))) == model


@given(model=requests | results)
def test_the_version_is_always_written(model: BaseModel) -> None:
    assert json.loads(model.model_dump_json())["api_version"] == API_VERSION


@given(model=requests | results, field=names.map("x_{}".format), value=json_values)
def test_an_unknown_field_is_refused_by_name(model: BaseModel, field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        load(model, json.dumps({**model.model_dump(mode="json"), field: value}))

    [error] = caught.value.errors()
    assert (error["type"], error["loc"][-1]) == ("extra_forbidden", field)


@given(model=requests | results, version=texts.filter(lambda version: version != API_VERSION))
def test_an_unknown_version_is_refused(model: BaseModel, version: str) -> None:
    with pytest.raises(ValidationError) as caught:
        load(model, json.dumps({**model.model_dump(mode="json"), "api_version": version}))

    assert caught.value.errors()[0]["type"] == "unknown_api_version"


def test_a_request_without_a_version_has_the_default() -> None:
    request = REQUEST.validate_python({"do": "unpark", "pid": 42})

    assert request == UnparkRequest(pid=42, api_version=API_VERSION)


def test_another_version_is_refused_by_name_with_a_hint_even_if_all_else_is_unknown() -> None:
    """A client of a later release may send an unknown `do` and unknown fields: the version is what explains them."""
    with pytest.raises(ValidationError) as caught:
        REQUEST.validate_python({"api_version": "forethaw.dev/v2", "do": "migrate", "to": "node-7"})

    error = refused_request(caught.value)
    assert error.reason is Reason.REQUEST_INVALID
    assert "forethaw.dev/v1alpha1, got " in error.detail and "forethaw.dev/v2" in error.detail
    assert error.hint == "use client and driver of one release, or send forethaw.dev/v1alpha1"


@pytest.mark.parametrize("limit_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_deadline_is_a_positive_finite_number(limit_s: float) -> None:
    with pytest.raises(ValidationError, match="deadlines_s"):
        UnparkRequest(pid=42, deadlines_s={"resume": limit_s})


def test_a_deadline_for_an_unknown_phase_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="there is no phase 'resumption'"):
        UnparkRequest(pid=42, deadlines_s={"resumption": 1.0})
