"""A record is enough: every decision of an hour is made again from its text, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscaler.ports import PassRecord
from autoscaler.reconcile import decided_again
from autoscaler.records import from_json, to_json
from simulations.replay import replay
from tests.autoscaler.small_worlds import row, scenario


@pytest.mark.parametrize("name", ["forethaw", "forethaw-cold", "hpa", "knative", "static"])
def test_an_hours_decisions_replay_from_their_records_byte_for_byte(name: str) -> None:
    """Memory, plan, violations and actions come out again from what was written, by a policy that is new."""
    of = scenario()
    lines: list[str] = []
    replay(of, row(of, name), keep=lambda record: lines.append(to_json(record)))
    policy = row(of, name).policy

    for line in lines[:: max(len(lines) // 400, 1)]:
        record = from_json(line)
        again = decided_again(policy, record)
        assert to_json(replace(again, outcomes=record.outcomes)) == line
    assert len(lines) >= 3600 / policy.interval_s - 1


def test_memory_decides_so_a_record_without_it_would_not_replay() -> None:
    """The HPA's down-stabilisation holds what its memory holds: with another memory another plan."""
    of = scenario()
    records: list[PassRecord] = []
    replay(of, row(of, "hpa"), keep=records.append)
    policy = row(of, "hpa").policy

    forgetful = [policy.decide(r.given, policy.initial()).plan.targets != r.decision.plan.targets for r in records[1:]]

    assert any(forgetful)


NO_RECORDS = ["{}", "[1]", '{"is":"Popen","of":[]}', '{"is":"Plan","of":[{},{},{},[]]}', "nonsense"]


@pytest.mark.parametrize("line", NO_RECORDS)
def test_what_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"record|JSON|Expecting"):
        from_json(line)
