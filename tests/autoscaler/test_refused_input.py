"""The sentence that a refused option or file entry becomes."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from autoscaler.refused_input import refused_input


class Inner(BaseModel):
    share: Annotated[float, Field(le=1)] = 0.5
    gpus: int = 1

    @field_validator("gpus")
    @classmethod
    def _some(cls, value: int) -> int:
        if value < 1:
            raise ValueError("give 1 or more")
        return value


class Outer(BaseModel):
    inner: Inner
    name: str


def fault(content: dict[str, Any]) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        Outer.model_validate(content)
    return refused.value


def test_a_rule_worded_as_a_hint_is_the_hint() -> None:
    sentence = str(
        refused_input(fault({"inner": {"gpus": 0}, "name": "x"}), "command line", name_of=lambda f: f"--{f}")
    )

    assert sentence == "command line, field --inner.gpus, value '0': this value cannot be used; give 1 or more."


def test_a_file_entry_is_named_with_its_line_its_rule_and_the_hint_given() -> None:
    error = fault({"inner": {"share": 2.0}, "name": "x"})
    sentence = str(refused_input(error, "my.toml", "correct it", line_of=lambda field: {"inner.share": 7}[field]))

    rule = "Input should be less than or equal to 1"
    assert sentence == f"my.toml, line 7, field inner.share, value '2.0': {rule}; correct it."


def test_a_missing_entry_has_no_value_and_is_to_be_added() -> None:
    sentence = str(refused_input(fault({"inner": {}}), "my.toml", "correct it"))

    assert sentence == "my.toml, field name: Field required; add the entry."
