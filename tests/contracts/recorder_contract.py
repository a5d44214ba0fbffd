"""The contract of the `Recorder` port (autoscaler/ports.py): every adapter runs these tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import pytest

from autoscaler.outcomes import Done, Outcome
from autoscaler.ports import ClusterView, PassRecord, Recorder
from policies.keys import TargetKey
from policies.leadtime import LeadTime
from policies.paths import DemandPaths
from policies.reasons import ReasonCode, because, for_count
from policies.types import FREE, Decision, DecisionInput, Plan, PoolSpec, SupplyStep, TargetPlan

WEB = TargetKey("shop", "web")


def record(
    now_s: float, pool: str = "pool", outcomes: Mapping[str, Outcome] | None = None, paths: DemandPaths | None = None
) -> PassRecord:
    """Return the record of a pass that plans one replica of `WEB` and asks for nothing."""
    supply = (SupplyStep(FREE, LeadTime((0.0,)), 1.0),)
    view = ClusterView(now_s, {}, {}, (), 8)
    given = DecisionInput(now_s, 1.0, 2.0, PoolSpec(pool, "h100", supply), 8, (), {}, (), paths)
    plan = Plan({WEB: TargetPlan(1, {}, (for_count(1, 1), because(ReasonCode.FIXED_COUNT, wanted=1)))})
    return PassRecord(pool, now_s, view, view, given, None, Decision(plan, None), plan, (), (), outcomes)


def flat_paths(values: tuple[float, ...], ends_s: tuple[float, ...] = (4.0, 12.0, 20.0)) -> DemandPaths:
    """Return paths of `WEB` that are `values[k]` in every step of path k."""
    paths = np.repeat(np.array(values)[None, :, None], len(ends_s), axis=2)
    return DemandPaths((WEB,), np.array(ends_s), paths, frozenset({WEB}))


class RecorderContract(ABC):
    """Derive from it, name the class `Test...`, and implement `make`."""

    @abstractmethod
    def make(self) -> Recorder:
        """Return a recorder without records."""

    @pytest.fixture
    def recorder(self) -> Recorder:
        return self.make()

    def test_without_records_there_is_no_last(self, recorder: Recorder) -> None:
        assert recorder.last("pool") is None

    def test_a_begun_record_is_the_last_and_has_no_outcomes(self, recorder: Recorder) -> None:
        recorder.begin(record(2.0))

        last = recorder.last("pool")
        assert last is not None
        assert (last.now_s, last.outcomes) == (2.0, None)

    def test_completing_replaces_the_begun_record(self, recorder: Recorder) -> None:
        recorder.begin(record(2.0))
        recorder.complete(record(2.0, outcomes={"stop/web-0": Done()}))

        last = recorder.last("pool")
        assert last is not None
        assert (last.now_s, last.outcomes) == (2.0, {"stop/web-0": Done()})

    def test_a_pass_that_died_while_acting_is_the_last_without_outcomes(self, recorder: Recorder) -> None:
        recorder.begin(record(2.0))
        recorder.complete(record(2.0, outcomes={}))
        recorder.begin(record(4.0))

        last = recorder.last("pool")
        assert last is not None
        assert (last.now_s, last.outcomes) == (4.0, None)

    def test_pools_have_records_of_their_own(self, recorder: Recorder) -> None:
        recorder.begin(record(2.0, pool="h100"))
        recorder.begin(record(4.0, pool="h200"))

        h100, h200 = recorder.last("h100"), recorder.last("h200")
        assert h100 is not None and h200 is not None
        assert (h100.now_s, h200.now_s) == (2.0, 4.0)
        assert recorder.last("b200") is None
