"""The runner as timelines: passes when they are due, pokes, failures and stops, on a clock that never waits."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from autoscaler.clock import WallClock
from autoscaler.config import ReconcileConfig
from autoscaler.errors import PortError
from autoscaler.ports import MetricFrame, MetricSource
from autoscaler.reconcile import initial_state
from autoscaler.runner import Runner
from autoscaler.telemetry.decisions import DecisionLog, line
from policies.keys import TargetKey
from simulations.replay import Run
from simulations.world.clock import SimulatedClock
from tests.autoscaler.small_worlds import run, scenario

CHAT = TargetKey("simulation", "chat")


class Stepping(SimulatedClock):
    """A simulated clock that does something when it is asked to sleep at or past a moment."""

    def __init__(self, of: Run) -> None:
        super().__init__(of.cluster, of.scenario.duration_s)
        self.slept: list[float] = []
        self.pending: list[tuple[float, Any]] = []

    def sleep_until(self, at_s: float) -> None:
        due = [d for d in self.pending if d[0] < at_s]
        if due:
            self.pending.remove(due[0])
            super().sleep_until(due[0][0])
            due[0][1]()
            return
        self.slept.append(at_s)
        super().sleep_until(at_s)


@dataclass
class Failing:
    """Metrics that cannot be read between two moments."""

    inner: MetricSource
    from_s: float
    to_s: float

    def read(self, keys: Collection[TargetKey], after_s: float, until_s: float) -> MetricFrame:
        if self.from_s <= until_s < self.to_s:
            raise PortError("Prometheus does not answer")
        return self.inner.read(keys, after_s, until_s)


@dataclass
class Moments:
    """When passes were made, and which failed."""

    passes: list[float] = field(default_factory=list)
    failures: list[tuple[str, float, str]] = field(default_factory=list)

    def failed(self, pool: str, at_s: float, error: Exception) -> None:
        self.failures.append((pool, at_s, str(error)))


def ran(of: Run, clock: Stepping, moments: Moments, until_s: float = 20.0) -> Runner:
    """A runner of the run's one pool, whose passes note their moments."""
    of.recorder._keep = lambda record: moments.passes.append(record.now_s)
    runner = Runner(of.ports, of.row.policy, {"pool": lambda: of.config}, clock, moments)
    runner.add("pool", initial_state(of.ports, of.row.policy, of.config, 0.0), 1.0)
    return runner


def test_a_pass_is_made_when_the_last_asked_for_it_and_none_at_the_end() -> None:
    of, moments = run(scenario(120.0), "hpa"), Moments()
    runner = ran(of, Stepping(of), moments)

    runner.run(46.0)

    assert moments.passes == [1.0, 16.0, 31.0]


def test_a_poke_brings_the_next_pass_forward_and_a_storm_of_pokes_is_one_pass() -> None:
    """At 5 s the target is poked twenty times: one pass at 5 s, the next 15 s later."""
    of, moments = run(scenario(120.0), "hpa"), Moments()
    clock = Stepping(of)
    runner = ran(of, clock, moments)
    clock.pending.append((5.0, partial(_storm, runner)))

    runner.run(36.0)

    assert moments.passes == [1.0, 5.0, 20.0, 35.0]


def _storm(runner: Runner) -> None:
    for _ in range(20):
        runner.poke(CHAT)


def test_a_poke_of_an_unknown_target_is_ignored() -> None:
    of, moments = run(scenario(120.0), "hpa"), Moments()
    runner = ran(of, Stepping(of), moments)
    runner.poke(TargetKey("nowhere", "nothing"))

    runner.run(20.0)

    assert moments.passes == [1.0, 16.0]


def test_a_pass_that_fails_changes_nothing_is_reported_and_tried_again_after_the_interval() -> None:
    """No metrics from 10 to 40 s: the passes at 16 and 31 s fail, and the one at 46 s reads what they could not."""
    of, moments = run(scenario(120.0), "hpa"), Moments()
    of.ports = replace(of.ports, metrics=Failing(of.ports.metrics, 10.0, 40.0))
    runner = ran(of, Stepping(of), moments)

    runner.run(62.0)

    assert moments.passes == [1.0, 46.0, 61.0]
    assert [(pool, at_s) for pool, at_s, _ in moments.failures] == [("pool", 16.0), ("pool", 31.0)]
    last = of.recorder.last("pool")
    assert last is not None
    assert all(seen.demand_known for seen in last.given.observed.values())


def test_targets_that_join_and_leave_between_passes_are_planned_and_forgotten() -> None:
    of, moments = run(scenario(120.0), "hpa"), Moments()
    present = [of.config]
    planned: list[set[str]] = []
    of.recorder._keep = lambda record: planned.append({k.name for k in record.plan.targets})
    clock = Stepping(of)
    runner = Runner(of.ports, of.row.policy, {"pool": lambda: present[0]}, clock, moments)
    runner.add("pool", initial_state(of.ports, of.row.policy, of.config, 0.0), 1.0)
    clock.pending.append((10.0, lambda: present.__setitem__(0, _only(of.config, "chat"))))
    clock.pending.append((25.0, lambda: present.__setitem__(0, of.config)))

    runner.run(32.0)

    assert planned == [{"chat", "images"}, {"chat"}, {"chat", "images"}]


def _only(config: ReconcileConfig, name: str) -> ReconcileConfig:
    return replace(config, targets=tuple(t for t in config.targets if t.spec.key.name == name))


def test_stop_ends_the_loop_before_the_next_pass() -> None:
    of, moments = run(scenario(120.0), "hpa"), Moments()
    clock = Stepping(of)
    runner = ran(of, clock, moments)
    clock.pending.append((20.0, runner.stop))

    runner.run()

    assert moments.passes == [1.0, 16.0]


def test_a_wall_clock_is_woken_from_another_thread() -> None:
    """Asked to sleep for an hour, and woken at once."""
    clock = WallClock()
    sleeper = threading.Thread(target=clock.sleep_until, args=(clock.now_s() + 3600.0,))
    sleeper.start()

    clock.wake()
    sleeper.join(timeout=30.0)

    assert not sleeper.is_alive()


def test_a_decision_is_one_line_with_codes_numbers_and_what_was_asked_for() -> None:
    of = run(scenario(300.0), "forethaw")
    lines: list[dict[str, Any]] = []
    of.recorder._keep = lambda record: lines.append(line(record))

    of.to_end()

    assert len(lines) == 150
    for told in lines:
        assert set(told) >= {"pool", "at_s", "codes", "targets", "idle_gpus", "actions"}
        assert sum(told["codes"].values()) == 2
        assert all(t["reasons"][0] != "Unchanged" or "MetricsUnknown" in t["reasons"] for t in told["targets"].values())
        json.dumps(told)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_writes_a_line_a_pass_in_words_or_as_json(log_format: str) -> None:
    of, sink = run(scenario(120.0), "hpa"), io.StringIO()
    log = DecisionLog(sink, log_format)
    of.recorder._keep = log.completed

    of.to_end()
    log.failed("pool", 121.0, PortError("Prometheus does not answer"))

    *decisions, failed = sink.getvalue().splitlines()
    assert len(decisions) == 8
    if log_format == "json":
        assert {json.loads(d)["event"] for d in decisions} == {"decision"}
        expected = {"event": "pass-failed", "pool": "pool", "at_s": 121.0, "error": "PortError"}
        assert json.loads(failed) == expected | {"detail": "Prometheus does not answer"}
    else:
        assert all(d.startswith("decision") and "pool=pool" in d for d in decisions)
        assert failed.startswith("pass-failed") and "Prometheus does not answer" in failed


def test_an_unknown_log_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="log_format: 'xml' is no form of log; give text or json"):
        DecisionLog(log_format="xml")
