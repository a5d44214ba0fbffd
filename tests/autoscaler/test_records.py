"""A record is enough: every decision of an hour is made again from its text, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

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
    policy, passes = row(of, name).policy, count()
    every = max(int(3600 / policy.interval_s) // 400, 1)
    lines: list[str] = []

    def keep(record: PassRecord) -> None:
        if next(passes) % every == 0:  # text is the larger part of the cost, so only that which is read is written
            lines.append(to_json(record))

    replay(of, row(of, name), keep=keep)

    for line in lines:
        record = from_json(line)
        again = decided_again(policy, record)
        assert to_json(replace(again, outcomes=record.outcomes)) == line
    assert len(lines) >= (3600 / policy.interval_s - 1) // every


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
